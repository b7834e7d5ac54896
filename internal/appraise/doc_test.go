package appraise_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"attestbox/internal/appraise"
	"attestbox/internal/testenv"
)

// docs/appraisal.md names every field of a policy, and its example is one.
func TestThePageFitsThePolicy(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(testenv.Root(), "docs", "appraisal.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, typ := range []reflect.Type{reflect.TypeFor[appraise.Policy](), reflect.TypeFor[appraise.ProductPolicy](), reflect.TypeFor[appraise.TCBFloor]()} {
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(page, "`"+name+"`") {
				t.Errorf("docs/appraisal.md does not name `%s`", name)
			}
		}
	}
	_, example, _ := strings.Cut(page, "$ cat appraisal.json\n")
	example, _, found := strings.Cut(example, "\n}\n")
	if !found {
		t.Fatal("docs/appraisal.md has no example")
	}
	if _, err := appraise.ParsePolicy([]byte(example + "\n}\n")); err != nil {
		t.Error(err)
	}
}
