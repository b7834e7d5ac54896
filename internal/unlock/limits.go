package unlock

import "attestbox/internal/luks"

// Limits are what a header may make this machine spend: argon2id, half of its
// memory.
func Limits() luks.Limits { return limits() }
