package strictjson

import (
	"encoding/json"
	"strings"
	"testing"
)

type inner struct {
	N int `json:"n"`
}

type outer struct {
	Name string            `json:"name"`
	List []inner           `json:"list,omitempty"`
	Map  map[string]inner  `json:"map,omitempty"`
	Ptr  *inner            `json:"ptr,omitempty"`
	Two  *[2]int           `json:"two,omitempty"`
	Raw  map[string]string `json:"raw,omitempty"`
	inner
}

func TestUnmarshal(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{`{"name":"a","list":[{"n":1}],"map":{"x":{"n":2}},"ptr":{"n":3},"two":[1,2]}`, ""},
		{` {"name" : "a"} `, ""},
		{`{"Name":"a"}`, `unknown field "Name"`},
		{`{"name":"a","name":"b"}`, `duplicate field "name"`},
		{`{"name":"a","n\u0061me":"b"}`, `duplicate field "name"`},
		{`{"list":[{"N":1}]}`, `unknown field "N"`},
		{`{"map":{"x":{"n":1},"x":{"n":2}}}`, `duplicate field "x"`},
		{`{"map":{"x":{"m":1}}}`, `unknown field "m"`},
		{`{"ptr":{"m":1}}`, `unknown field "m"`},
		{`{"name":"a"}{}`, "trailing"},
		{`{"name":"a"} x`, "trailing"},
		{`{"name":null}`, "null"},
		{`{"two":[1]}`, "1 elements, want 2"},
		{`{"two":[1,2,3]}`, "3 elements, want 2"},
		{`{"name":"a"`, "unexpected EOF"},
		{`{"name":1}`, "cannot unmarshal"},
		{``, "unexpected EOF"},
		{"{\"name\":\"\xff\"}", "UTF-8"},
		{`{"raw":` + strings.Repeat(`[`, 100), "nested deeper"},
	} {
		var v outer
		err := Unmarshal([]byte(tc.in), &v)
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.in, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: error %v, want %q", tc.in, err, tc.want)
		}
	}
}

// What is accepted means the same to encoding/json after a round trip.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"name":"a","list":[{"n":1}],"map":{"x":{"n":2}},"two":[1,2]}`))
	f.Add([]byte(`{"name":"a","name":"b"}`))
	f.Add([]byte(`[[[[[[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v, w outer
		if Unmarshal(data, &v) != nil {
			return
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := Unmarshal(again, &w); err != nil {
			t.Fatalf("%s: re-marshalled %s: %v", data, again, err)
		}
		third, _ := json.Marshal(w)
		if string(again) != string(third) {
			t.Fatalf("%s: %s != %s", data, again, third)
		}
	})
}

// Long names cost no more than their length, and errors do not repeat them.
func TestLongNames(t *testing.T) {
	name := strings.Repeat("n", 1<<20)
	var v struct {
		Map map[string][]any `json:"map"`
	}
	many := `{"map":{"` + name + `":[` + strings.Repeat("1,", 1<<19) + `1]}}`
	if err := Unmarshal([]byte(many), &v); err != nil { // hours, were the path built for each element
		t.Error(err)
	}
	deep := strings.Repeat(`{"`+name[:1<<10]+`":`, 20) + "null" + strings.Repeat("}", 20)
	for _, in := range []string{
		`{"` + name + `":1}`,
		`{"map":{"` + name + `":[null]}}`,
		`{"map":{"` + name + `":[1],"` + name + `":[1]}}`,
		`{"map":{"a":[` + deep + `]}}`,
	} {
		if err := Unmarshal([]byte(in), &v); err == nil || len(err.Error()) > 400 || !strings.HasPrefix(err.Error(), "json: ") {
			t.Errorf("%.60s...: error of %d bytes, %.80v", in, len(err.Error()), err)
		}
	}
	if err := Unmarshal([]byte(`{"map":{"a":[1,{"b":null}]}}`), &v); err == nil || err.Error() != "json: map.a[1].b: null is not allowed" {
		t.Errorf("%v", err)
	}
}
