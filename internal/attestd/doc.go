// Package attestd gives the programs of a VM, in any language, what the VM's
// platform and its certified identity can do for them, over a Unix socket:
// attest, seal, unseal, sign, and a key of their own (DESIGN section 5 and
// issue "Local service").
//
// Protocol. A connection is SOCK_STREAM. Everything is a frame: 4 bytes
// big-endian length, then one JSON object with exact-case names, no unknown or
// duplicate fields and no trailing bytes (package strictjson). Where the object
// has "size": N with N > 0, exactly N raw bytes follow the frame: no secret
// stands in JSON.
//
//	attestd -> caller  {"type":"challenge","version":1,"nonce":HEX32}
//	caller -> attestd  {"op":OP,"nonce":HEX32,...}         [size bytes]
//	attestd -> caller  {"type":OP,...} or {"type":"error"} [size bytes]
//
// and so on, one request at a time, with the nonce of the challenge in every
// request. Request and Response list the fields.
//
// Who calls. Not a claim of the caller's: the kernel's word. SO_PEERCRED names
// the process that connected, a pidfd (SO_PEERPIDFD, else pidfd_open) and its
// folder in /proc hold on to it, /proc/PID/exe is the file that it runs, and an
// open /proc/PID/maps holds on to the memory that this execution has. Each
// chunk of a request comes with SCM_CREDENTIALS of the process that wrote it.
// A request counts only if all its bytes were written by that process, after
// the challenge was sent, and if it still runs the same execution of the same
// file when the request has arrived. So none of these work: connect and then
// execute another program; leave the socket with a child and execute another
// program; hand the socket to another process; reuse a process ID.
//
// Which program. See Program and Kernel. All executable memory of the process
// must be of its executable or of files as unchangeable as that (shared
// libraries; with fs-verity they must be root's), and not written to since it
// was mapped: a program that makes code as it runs is unmeasured. So is a
// traced process, one in another user or PID namespace, and one that changed
// its user after it connected. An unmeasured program may attest as
// "unmeasured", and see the certificate; no more.
//
// It does not protect programs of one user from each other beyond that: a user
// who may run a program can, by arguments, environment, ptrace or
// /proc/PID/mem, make it do what he likes. Therefore what is sealed is bound to
// the user too, unless the caller asks otherwise. An interpreter is one
// program, whatever script it runs. Root in the VM is the instance.
package attestd
