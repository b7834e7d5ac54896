package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestEveryKeyIsDocumented(t *testing.T) {
	// docs/init.md is the reference; a new key has to appear there.
	doc := readDoc(t)
	var walk func(reflect.Type)
	walk = func(rt reflect.Type) {
		for f := range rt.Fields() {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if tag == "" {
				continue
			}
			if !strings.Contains(doc, "`"+tag+"`") {
				t.Errorf("docs/init.md does not name the key `%s`", tag)
			}
			ft := f.Type
			for ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice {
				ft = ft.Elem()
			}
			if ft.Kind() == reflect.Struct && ft.PkgPath() == rt.PkgPath() {
				walk(ft)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
	for _, w := range append(append([]string{}, Required...), Recommended...) {
		if !strings.Contains(doc, w) {
			t.Errorf("docs/init.md does not name %s", w)
		}
	}
}

func readDoc(t *testing.T) string {
	b, err := os.ReadFile("../../docs/init.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
