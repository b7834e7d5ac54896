package fetchsecret

// Fetch is the applet on a platform of the caller's.
var Fetch = fetch
