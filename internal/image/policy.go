package image

import (
	"fmt"

	"attestbox/initramfs/config"
	"attestbox/internal/client"
)

// checkPolicy refuses a configuration that trusts a policy certificate which
// the image does not hold: such an image would trust nobody when it boots.
func (b *builder) checkPolicy() error {
	if b.cfg.Policy == "" {
		return nil
	}
	e, ok := b.a.Get(config.PolicyPath)
	if !ok {
		return fmt.Errorf("the configuration names the policy certificate %s, and the image has no such file: add it to files", config.PolicyPath)
	}
	if _, err := client.ParsePolicy(e.Data); err != nil {
		return fmt.Errorf("policy certificate %s: %w", config.PolicyPath, err)
	}
	return nil
}
