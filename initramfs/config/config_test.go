package config

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"attestbox/internal/code"
)

const pin = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

const switchRoot = `{"mode":"switch-root","servers":["tcp://10.0.2.2:8451","vsock://2:8451"],"pins":["` + pin + `"],
 "network":{"method":"dhcp"},"root":{"device":"/dev/vda","name":"root","fstype":"ext4","options":["ro"]}}`

const run = `{"mode":"run","servers":["vsock://2:8451"],"pins":["` + pin + `"],"network":{"method":"none"},
 "timeout":"90s","on_failure":"reboot:30s","min_time":1800000000,
 "state":{"type":"disk","device":"/dev/vdb","name":"state","fstype":"ext4","options":["noatime"]},
 "programs":[{"name":"db","argv":["/bin/db","-x"],"user":"100:100","restart":"always","required":true,"secrets":["db.key"]}]}`

const hash = "8c1f0000000000000000000000000000000000000000000000000000000000ab"

const verityRoot = `{"mode":"switch-root","servers":["vsock://2:8451"],"pins":["` + pin + `"],"network":{"method":"none"},
 "root":{"device":"/dev/vda","name":"root","fstype":"ext4","verity":{"root_hash":"` + hash + `","salt":"` + hash + `","data_blocks":1000,"hash_offset":4096000}},
 "state":{"type":"disk","device":"/dev/vdb","name":"var","fstype":"ext4","path":"/var"}}`

const stage1 = `{"mode":"bundle","servers":["vsock://2:8451"],"pins":["` + pin + `"],"network":{"method":"none"},
 "bundle":{"device":"/dev/vda","key":"` + hash + `","name":"web","min_version":3}}`

func TestStage1(t *testing.T) {
	c, err := Parse([]byte(stage1))
	if err != nil || c.Bundle.MinVersion != 3 || len(c.Bundle.Owner()) != 32 {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, change := range [][2]string{
		{`"servers":["vsock://2:8451"],"pins":["` + pin + `"],`, ``},
		{`"pins":["` + pin + `"],`, ``},
		{`/dev/vda`, `/dev/disk/by-label/x`},
		{hash, strings.Repeat("0", 64)},
		{hash, hash[:62]},
		{`"key":"` + hash + `",`, ``},
		{`"web"`, `"Web"`},
		{`"min_version":3`, `"min_version":0`},
		{`"min_version":3`, `"min_version":3,"url":"http://x"`},
		{`"bundle":{`, `"programs":[{"name":"a","argv":["/bin/a"],"user":"root","restart":"never","required":true}],"bundle":{`},
		{`"bundle":{`, `"root":{"device":"/dev/vda","name":"root","fstype":"ext4"},"bundle":{`},
		{`"bundle":{`, `"state":{"type":"tmpfs"},"bundle":{`},
		{`"mode":"bundle"`, `"mode":"switch-root"`},
		{`"mode":"bundle"`, `"mode":"run"`},
	} {
		bad := strings.Replace(stage1, change[0], change[1], 1)
		if c, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q for %q: accepted %+v", change[1], change[0], c)
		}
	}
	for _, other := range []string{switchRoot, run} {
		with := strings.Replace(other, `"network"`, stage1[strings.Index(stage1, `"bundle":{`):len(stage1)-1]+`,"network"`, 1)
		if _, err := Parse([]byte(with)); err == nil || !strings.Contains(err.Error(), "bundle belongs to") {
			t.Errorf("a bundle in another mode: %v", err)
		}
	}
}

func TestParse(t *testing.T) {
	c, err := Parse([]byte(switchRoot))
	if err != nil {
		t.Fatal(err)
	}
	if c.Timeout != Duration(DefaultTimeout) || c.Root.Init != DefaultRootInit || c.OnFailure.Reboot || c.MinTime != DefaultMinTime {
		t.Errorf("defaults not filled in: %+v", c)
	}
	c, err = Parse([]byte(verityRoot))
	if err != nil || c.Root.Verity.DataBlocks != 1000 || c.State.Path != "/var" || c.State.Owner != "root" {
		t.Fatalf("%+v, %v", c, err)
	}
	c, err = Parse([]byte(run))
	if err != nil {
		t.Fatal(err)
	}
	if want := (OnFailure{true, 30 * time.Second}); c.OnFailure != want || c.Timeout != Duration(90*time.Second) || c.State.Path != DefaultStateDir {
		t.Errorf("got %+v", c)
	}
	if u, g, err := c.Programs[0].IDs(); u != 100 || g != 100 || err != nil {
		t.Errorf("IDs = %d, %d, %v", u, g, err)
	}
}

// TestRefused changes one thing of a good file at a time.
// A policy certificate takes the place of pins, or stands beside them.
func TestPolicy(t *testing.T) {
	for _, tt := range []string{`"policy":"` + PolicyPath + `",`, `"pins":["` + pin + `"],"policy":"` + PolicyPath + `",`} {
		c, err := Parse([]byte(strings.Replace(switchRoot, `"pins":["`+pin+`"],`, tt, 1)))
		if err != nil || c.Policy != PolicyPath {
			t.Errorf("%s: %+v, %v", tt, c, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct{ name, base, old, new, want string }{
		{"unknown key", run, `"mode"`, `"shell":"/bin/sh","mode"`, "unknown field"},
		{"other case", run, `"mode"`, `"Mode"`, "unknown field"},
		{"duplicate", run, `"mode":"run"`, `"mode":"run","mode":"run"`, "duplicate"},
		{"trailing bytes", run, `"required":true,"secrets":["db.key"]}]}`, `"required":true}]} {}`, "trailing"},
		{"no mode", run, `"mode":"run",`, ``, "mode"},
		{"other mode", run, `"mode":"run"`, `"mode":"debug"`, "mode"},
		{"no network", switchRoot, `"network":{"method":"dhcp"},`, ``, "network"},
		{"bad network", switchRoot, `"dhcp"`, `"bootp"`, "method"},
		{"address with dhcp", switchRoot, `"method":"dhcp"`, `"method":"dhcp","address":"10.0.2.15/24"`, "static"},
		{"interface with none", run, `"method":"none"`, `"method":"none","interface":"eth0"`, "no other key"},
		{"interface path", switchRoot, `"method":"dhcp"`, `"method":"dhcp","interface":"../x"`, "interface"},
		{"static without address", switchRoot, `"method":"dhcp"`, `"method":"static"`, "ADDRESS/PREFIX"},
		{"gateway outside", switchRoot, `"method":"dhcp"`, `"method":"static","address":"10.0.2.15/24","gateway":"10.0.3.2"`, "gateway"},
		{"gateway is ourselves", switchRoot, `"method":"dhcp"`, `"method":"static","address":"10.0.2.15/24","gateway":"10.0.2.15"`, "gateway"},
		{"dns name", switchRoot, `"method":"dhcp"`, `"method":"dhcp","dns":["ns.example"]`, "DNS"},
		{"no server", switchRoot, `"servers":["tcp://10.0.2.2:8451","vsock://2:8451"],`, ``, "servers"},
		{"no pin", switchRoot, `"pins":["` + pin + `"],`, ``, "pins"},
		{"policy elsewhere", switchRoot, `"pins":["` + pin + `"],`, `"policy":"/tmp/policy.crt",`, "policy"},
		{"policy without servers", run, `"servers":["vsock://2:8451"],"pins":["` + pin + `"],`, `"policy":"/etc/attestbox/policy.crt",`, "servers"},
		{"null pins", switchRoot, `["` + pin + `"]`, `null`, "null"},
		{"zero pin", switchRoot, pin, "sha256:" + strings.Repeat("0", 64), "pins"},
		{"same pin twice", switchRoot, `["` + pin, `["` + pin + `","` + pin, "twice"},
		{"short pin", switchRoot, pin, pin[:70], "hex digits"},
		{"pins alone", run, `"servers":["vsock://2:8451"],`, ``, "servers"},
		{"https", switchRoot, `tcp://10.0.2.2:8451`, `https://10.0.2.2:8451`, "neither"},
		{"no port", switchRoot, `tcp://10.0.2.2:8451`, `tcp://10.0.2.2`, "neither"},
		{"port 0", switchRoot, `tcp://10.0.2.2:8451`, `tcp://10.0.2.2:0`, "port"},
		{"port +1", switchRoot, `tcp://10.0.2.2:8451`, `tcp://10.0.2.2:+1`, "port"},
		{"empty host", switchRoot, `tcp://10.0.2.2:8451`, `tcp://:8451`, "host"},
		{"path in host", switchRoot, `tcp://10.0.2.2:8451`, `tcp://a/b:8451`, "host"},
		{"IPv6 without end", switchRoot, `tcp://10.0.2.2:8451`, `tcp://[::1:8451`, "IPv6"},
		{"vsock name", switchRoot, `vsock://2:8451`, `vsock://host:8451`, "context ID"},
		{"vsock any", switchRoot, `vsock://2:8451`, `vsock://4294967295:8451`, "context ID"},
		{"server twice", switchRoot, `vsock://2:8451`, `tcp://10.0.2.2:8451`, "twice"},
		{"tcp without network", run, `vsock://2:8451`, `tcp://10.0.2.2:8451`, "needs a network"},
		{"timeout 0", run, `"90s"`, `"0s"`, "duration"},
		{"timeout negative", run, `"90s"`, `"-5s"`, "duration"},
		{"timeout number", run, `"90s"`, `90`, "json"},
		{"on_failure shell", run, `"reboot:30s"`, `"shell"`, "on_failure"},
		{"on_failure at once", run, `"reboot:30s"`, `"reboot:0s"`, "on_failure"},
		{"negative time", run, `1800000000`, `-1`, "min_time"},
		{"no root", switchRoot, `,"root":{"device":"/dev/vda","name":"root","fstype":"ext4","options":["ro"]}`, ``, "root"},
		{"root by UUID", switchRoot, `/dev/vda`, `UUID=1234`, "device"},
		{"root by link", switchRoot, `/dev/vda`, `/dev/disk/by-label/root`, "device"},
		{"root outside dev", switchRoot, `/dev/vda`, `/dev/../tmp/x`, "device"},
		{"mapping named control", switchRoot, `"name":"root"`, `"name":"control"`, "name"},
		{"mapping with slash", switchRoot, `"name":"root"`, `"name":"a/b"`, "name"},
		{"fstype auto", switchRoot, `"ext4"`, `"auto"`, "fstype"},
		{"no fstype", switchRoot, `"fstype":"ext4",`, ``, "fstype"},
		{"option remount", switchRoot, `["ro"]`, `["remount"]`, "first mount"},
		{"option with comma", switchRoot, `["ro"]`, `["ro,suid"]`, "option"},
		{"root init relative", switchRoot, `"options":["ro"]`, `"init":"sbin/init"`, "init"},
		{"root init with dots", switchRoot, `"options":["ro"]`, `"init":"/sbin/../init"`, "init"},
		{"programs in switch-root", switchRoot, `"mode"`, `"programs":[{"name":"a","argv":["/a"],"user":"root","restart":"never","required":true}],"mode"`, "programs"},
		{"root in run", run, `"mode"`, `"root":{"device":"/dev/vda","name":"root","fstype":"ext4"},"mode"`, "root"},
		{"no programs", run, `,
 "programs":[{"name":"db","argv":["/bin/db","-x"],"user":"100:100","restart":"always","required":true,"secrets":["db.key"]}]`, ``, "programs"},
		{"program without argv", run, `["/bin/db","-x"]`, `[]`, "argv"},
		{"program relative", run, `"/bin/db"`, `"db"`, "argv"},
		{"program with NUL", run, `"-x"`, `"-\u0000"`, "NUL"},
		{"user by name", run, `"100:100"`, `"postgres"`, "user"},
		{"user without group", run, `"100:100"`, `"100"`, "user"},
		{"user +1", run, `"100:100"`, `"+100:100"`, "user"},
		{"no user", run, `"user":"100:100",`, ``, "user"},
		{"no restart", run, `"restart":"always",`, ``, "restart"},
		{"wait for ever", run, `"required":true`, `"required":true,"wait":true`, "never ends"},
		{"btrfs", run, `"ext4"`, `"btrfs"`, "fstype"},
		{"secret path", run, `"db.key"`, `"../db.key"`, "secret name"},
		{"state over proc", run, `"type":"disk"`, `"type":"disk","path":"/proc/x"`, "path"},
		{"state owner", run, `"type":"disk"`, `"type":"disk","owner":"me"`, "owner"},
		{"state type", run, `"type":"disk"`, `"type":"nfs"`, "type"},
		{"state beside a LUKS root", switchRoot, `"mode"`, `"state":{"type":"tmpfs"},"mode"`, "state"},
		{"verity without root hash", verityRoot, `"root_hash":"` + hash + `",`, ``, "root_hash"},
		{"verity without data", verityRoot, `"data_blocks":1000,`, ``, "data_blocks"},
		{"verity with the tree in the data", verityRoot, `4096000`, `4091904`, "hash_offset"},
		{"verity of another algorithm", verityRoot, `"data_blocks"`, `"algorithm":"sha1","data_blocks"`, "algorithm"},
		{"verity mounted for writing", verityRoot, `"fstype":"ext4","verity"`, `"fstype":"ext4","options":["rw"],"verity"`, "rw"},
		{"state in memory beside verity", verityRoot, `{"type":"disk","device":"/dev/vdb","name":"var","fstype":"ext4","path":"/var"}`, `{"type":"tmpfs"}`, "type"},
		{"state on the root's device", verityRoot, `/dev/vdb`, `/dev/vda`, "device and name"},
		{"state under the root's name", verityRoot, `"name":"var"`, `"name":"root"`, "device and name"},
		{"state over programs", verityRoot, `"path":"/var"`, `"path":"/usr/local"`, "path"},
		{"verity in run", run, `"mode"`, `"root":{"device":"/dev/vda"},"mode"`, "root"},
		{"state size on disk", run, `"type":"disk"`, `"type":"disk","size":"1M"`, "size"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changed := strings.Replace(tt.base, tt.old, tt.new, 1)
			if changed == tt.base {
				t.Fatalf("%q is not in the good file", tt.old)
			}
			_, err := Parse([]byte(changed))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
			if c, _ := code.Of(err); c != code.ConfigBad {
				t.Errorf("code %q", c)
			}
		})
	}
	for _, s := range []string{"", "null", "[]", "{}", strings.Repeat(" ", MaxSize+1)} {
		if _, err := Parse([]byte(s)); err == nil {
			t.Errorf("%.10q was accepted", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(switchRoot))
	f.Add([]byte(verityRoot))
	f.Add([]byte(run))
	f.Add([]byte(stage1))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		canon, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(canon)
		if err != nil {
			t.Fatalf("canonical form refused: %v\n%s", err, canon)
		}
		second, _ := again.Marshal()
		if !bytes.Equal(canon, second) {
			t.Fatalf("not stable:\n%s\n%s", canon, second)
		}
	})
}
