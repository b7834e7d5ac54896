package admission

import (
	"fmt"

	"attestbox/internal/code"
)

// RequireRole refuses an identity without the role; "" asks for none.
func RequireRole(id *Identity, role string) error {
	if role == "" || id.HasRole(role) {
		return nil
	}
	return code.Wrap(code.AdmissionRole, fmt.Errorf("%w %s: %s", ErrRole, role, id))
}
