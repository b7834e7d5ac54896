package cryptstore

// RunOn is the applet on a platform of the caller's.
var RunOn = runOn
