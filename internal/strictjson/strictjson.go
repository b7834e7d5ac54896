// Package strictjson reads JSON as protocols need it: names in exact case, no
// duplicate and no unknown fields, no trailing bytes, bounded depth, valid
// UTF-8. encoding/json alone matches names in any case and lets the last
// duplicate win, so that two readers can see two different messages.
//
// RFC 8259, with the interoperability advice of RFC 7493 (I-JSON) as rules.
package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// MaxDepth bounds the nesting of objects and arrays.
const MaxDepth = 32

// Unmarshal reads exactly one JSON value into v, a pointer.
func Unmarshal(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("json: not valid UTF-8")
	}
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer {
		return errors.New("json: destination is not a pointer")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := check(dec, t.Elem(), 0); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("json: trailing bytes after the value")
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("json: %w", err)
	}
	return nil
}

// located is an error with the path of the value it is about. The path is put
// together on the way out, so that it costs nothing where there is no error.
type located struct {
	path string
	err  error
}

func (e *located) Error() string { return "json: " + at(e.path) + ": " + e.err.Error() }
func (e *located) Unwrap() error { return e.err }

func errorf(format string, a ...any) error { return &located{err: fmt.Errorf(format, a...)} }

// below adds a step in front of an error's path.
func below(step string, err error) error {
	if e, ok := err.(*located); ok && len(e.path) < maxPath {
		e.path = step + e.path
	}
	return err
}

// maxPath and maxName bound what an error repeats of its input, in bytes.
const (
	maxPath = 200
	maxName = 64
)

func clip(name string) string {
	if len(name) > maxName {
		return strings.ToValidUTF8(name[:maxName], "") + "..."
	}
	return name
}

// check walks one value against the type that will receive it.
func check(dec *json.Decoder, t reflect.Type, depth int) error {
	if depth > MaxDepth {
		return errorf("nested deeper than %d", MaxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return errorf("%w", noEOF(err))
	}
	t = deref(t)
	switch tok {
	case json.Delim('{'):
		return checkObject(dec, t, depth)
	case json.Delim('['):
		elem := reflect.TypeFor[any]()
		if t.Kind() == reflect.Slice || t.Kind() == reflect.Array {
			elem = t.Elem()
		}
		n := 0
		for ; dec.More(); n++ {
			if err := check(dec, elem, depth+1); err != nil {
				return below(fmt.Sprintf("[%d]", n), err)
			}
		}
		if t.Kind() == reflect.Array && n != t.Len() && !selfDecoding(t) {
			return errorf("%d elements, want %d", n, t.Len())
		}
		_, err = dec.Token()
		return noEOF(err)
	case nil:
		return errorf("null is not allowed")
	}
	return nil
}

func checkObject(dec *json.Decoder, t reflect.Type, depth int) error {
	var fields map[string]reflect.Type
	if t.Kind() == reflect.Struct && !selfDecoding(t) {
		fields = fieldsOf(t)
	}
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return errorf("%w", noEOF(err))
		}
		name := tok.(string) // the decoder allows nothing else here
		if seen[name] {
			return errorf("duplicate field %q", clip(name))
		}
		seen[name] = true
		ft := reflect.TypeFor[any]()
		switch {
		case fields != nil:
			var ok bool
			if ft, ok = fields[name]; !ok {
				return errorf("unknown field %q", clip(name))
			}
		case t.Kind() == reflect.Map:
			ft = t.Elem()
		}
		if err := check(dec, ft, depth+1); err != nil {
			return below("."+clip(name), err)
		}
	}
	_, err := dec.Token()
	return noEOF(err)
}

func deref(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func selfDecoding(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(jsonUnmarshaler) || p.Implements(textUnmarshaler)
}

// fieldsOf maps the JSON names of a struct to their types.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case tag == "-" || !f.IsExported():
		case tag != "":
			fields[tag] = f.Type
		case f.Anonymous && deref(f.Type).Kind() == reflect.Struct: // its fields are visible themselves
		default:
			fields[f.Name] = f.Type
		}
	}
	return fields
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func at(path string) string {
	if path == "" {
		return "top level"
	}
	return strings.TrimPrefix(path, ".")
}
