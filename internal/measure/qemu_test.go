package measure

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"attestbox/internal/testenv"
)

// The QEMU that is installed has no EPYC model that is not known here, and none
// with another signature. No machine is started.
func TestVCPUTypesOfQEMU(t *testing.T) {
	qemu := testenv.Tool(t, "qemu-system-x86_64", "qemu-system-x86")
	help, err := exec.CommandContext(t.Context(), qemu, "-cpu", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	var models []string
	var ask strings.Builder
	fmt.Fprintln(&ask, `{"execute":"qmp_capabilities"}`)
	for line := range strings.Lines(string(help)) {
		f := strings.Fields(strings.TrimPrefix(line, "x86 ")) // older versions have that
		if len(f) > 0 && strings.HasPrefix(f[0], "EPYC") {
			models = append(models, f[0])
			fmt.Fprintf(&ask, `{"execute":"query-cpu-model-expansion","arguments":{"type":"full","model":{"name":%q}},"id":%q}`+"\n", f[0], f[0])
		}
	}
	fmt.Fprintln(&ask, `{"execute":"quit"}`)
	if len(models) < 8 {
		t.Fatalf("QEMU has the models %q only", models)
	}
	cmd := exec.CommandContext(t.Context(), qemu, "-M", "none", "-display", "none", "-S", "-qmp", "stdio")
	cmd.Stdin = strings.NewReader(ask.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	seen := 0
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var answer struct {
			ID     string
			Return struct {
				Model struct {
					Props struct{ Family, Model, Stepping uint8 }
				}
			}
			Error any
		}
		if err := dec.Decode(&answer); err != nil {
			t.Fatal(err)
		}
		if answer.Error != nil {
			t.Errorf("%s: %v", answer.ID, answer.Error)
		}
		if answer.ID == "" {
			continue
		}
		seen++
		p := answer.Return.Model.Props
		if sig, err := VCPUSig(answer.ID); err != nil || sig != Signature(p.Family, p.Model, p.Stepping) {
			t.Errorf("%s: %#x, %v; QEMU has family %d, model %d, stepping %d", answer.ID, sig, err, p.Family, p.Model, p.Stepping)
		}
	}
	if seen != len(models) {
		t.Errorf("QEMU answered for %d of %d models", seen, len(models))
	}
}
