package main

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"attestbox/internal/image"
)

// A libvirt domain, as far as a launch says it: libvirt's formatdomain, with
// launch security of type sev-snp, which libvirt has from 10.5.0 on.
type domain struct {
	XMLName xml.Name `xml:"domain"`
	Type    string   `xml:"type,attr"`
	Name    string   `xml:"name"`
	Memory  struct {
		Unit string `xml:"unit,attr"`
		Size int    `xml:",chardata"`
	} `xml:"memory"`
	Backing struct {
		Source attrType `xml:"source"`
		Access attrMode `xml:"access"`
	} `xml:"memoryBacking"`
	VCPU int `xml:"vcpu"`
	OS   struct {
		Type struct {
			Arch    string `xml:"arch,attr"`
			Machine string `xml:"machine,attr"`
			Value   string `xml:",chardata"`
		} `xml:"type"`
		Loader struct {
			Type string `xml:"type,attr"`
			Path string `xml:",chardata"`
		} `xml:"loader"`
		Kernel  string `xml:"kernel"`
		Initrd  string `xml:"initrd,omitempty"`
		Cmdline string `xml:"cmdline,omitempty"`
	} `xml:"os"`
	Features struct {
		ACPI struct{} `xml:"acpi"`
	} `xml:"features"`
	CPU struct {
		Mode  string `xml:"mode,attr"`
		Match string `xml:"match,attr"`
		Check string `xml:"check,attr"`
		Model struct {
			Fallback string `xml:"fallback,attr"`
			Name     string `xml:",chardata"`
		} `xml:"model"`
	} `xml:"cpu"`
	OnReboot string `xml:"on_reboot"`
	OnCrash  string `xml:"on_crash"`
	Devices  struct {
		Disks      []diskDevice `xml:"disk"`
		Interfaces []netDevice  `xml:"interface"`
		Serial     struct {
			Type string `xml:"type,attr"`
		} `xml:"serial"`
		Vsock   *vsockDevice `xml:"vsock"`
		Balloon attrModel    `xml:"memballoon"`
	} `xml:"devices"`
	Security struct {
		Type         string `xml:"type,attr"`
		KernelHashes string `xml:"kernelHashes,attr"`
		AuthorKey    string `xml:"authorKey,attr,omitempty"`
		Policy       string `xml:"policy"`
		IDBlock      string `xml:"idBlock,omitempty"`
		IDAuth       string `xml:"idAuth,omitempty"`
		HostData     string `xml:"hostData,omitempty"`
	} `xml:"launchSecurity"`
}

type (
	attrType struct {
		Type string `xml:"type,attr"`
	}
	attrMode struct {
		Mode string `xml:"mode,attr"`
	}
	attrModel struct {
		Model string `xml:"model,attr"`
	}
	netDevice struct {
		Type  string   `xml:"type,attr"`
		Model attrType `xml:"model"`
	}
	vsockDevice struct {
		Model string `xml:"model,attr"`
		CID   struct {
			Auto    string `xml:"auto,attr"`
			Address uint64 `xml:"address,attr"`
		} `xml:"cid"`
	}
	diskDevice struct {
		Type   string `xml:"type,attr"`
		Device string `xml:"device,attr"`
		Driver struct {
			Name string `xml:"name,attr"`
			Type string `xml:"type,attr"`
		} `xml:"driver"`
		Source struct {
			File string `xml:"file,attr"`
		} `xml:"source"`
		Target struct {
			Dev string `xml:"dev,attr"`
			Bus string `xml:"bus,attr"`
		} `xml:"target"`
		ReadOnly *struct{} `xml:"readonly"`
	}
)

// domain is the launch as a libvirt domain. libvirt takes absolute paths only.
func (l *launch) domain() (string, error) {
	m := l.report.Record.Measurement
	var d domain
	d.Type, d.Name, d.VCPU = "kvm", l.name, m.VCPUs
	d.Memory.Unit, d.Memory.Size = "MiB", l.memory
	d.Backing.Source.Type, d.Backing.Access.Mode = "memfd", "shared"
	d.OS.Type.Arch, d.OS.Type.Machine, d.OS.Type.Value = "x86_64", "q35", "hvm"
	type file struct {
		to   *string
		path string
	}
	d.OS.Loader.Type = "rom"
	files := []file{{&d.OS.Loader.Path, l.ovmf}}
	if l.unified {
		files = append(files, file{&d.OS.Kernel, l.file(image.UKIName)})
	} else {
		d.OS.Cmdline = l.report.Cmdline
		files = append(files, file{&d.OS.Kernel, l.file(image.KernelName)}, file{&d.OS.Initrd, l.file(image.InitrdName)})
	}
	for _, p := range files {
		var err error
		if *p.to, err = filepath.Abs(p.path); err != nil {
			return "", err
		}
	}
	d.CPU.Mode, d.CPU.Match, d.CPU.Check = "custom", "exact", "none"
	d.CPU.Model.Fallback, d.CPU.Model.Name = "forbid", m.VCPUType
	d.OnReboot, d.OnCrash = "destroy", "destroy"
	for i, path := range append(append([]string{}, l.disks...), l.roDisks...) {
		disk, err := newDisk(path, i)
		if err != nil {
			return "", err
		}
		if i >= len(l.disks) {
			disk.ReadOnly = &struct{}{}
		}
		d.Devices.Disks = append(d.Devices.Disks, disk)
	}
	if l.net == "user" {
		d.Devices.Interfaces = []netDevice{{Type: "user", Model: attrType{"virtio"}}}
	}
	if l.vsockCID != 0 {
		v := &vsockDevice{Model: "virtio"}
		v.CID.Auto, v.CID.Address = "no", l.vsockCID
		d.Devices.Vsock = v
	}
	d.Devices.Serial.Type, d.Devices.Balloon.Model = "pty", "none"
	s := &d.Security
	s.Type, s.KernelHashes, s.Policy = "sev-snp", "yes", fmt.Sprintf("%#x", uint64(l.policy))
	if l.hostData != [32]byte{} {
		s.HostData = base64.StdEncoding.EncodeToString(l.hostData[:])
	}
	if l.idBlock != nil {
		s.IDBlock, s.IDAuth = base64.StdEncoding.EncodeToString(l.idBlock), base64.StdEncoding.EncodeToString(l.idAuth)
		if l.authorKey {
			s.AuthorKey = "yes"
		}
	}
	said := []string{d.Name, d.OS.Loader.Path, d.OS.Kernel, d.OS.Initrd, d.OS.Cmdline}
	for _, disk := range d.Devices.Disks {
		said = append(said, disk.Source.File)
	}
	for _, s := range said {
		if strings.ContainsFunc(s, notXML) || !utf8.ValidString(s) {
			return "", fmt.Errorf("%q cannot be said in XML", s)
		}
	}
	b, err := xml.MarshalIndent(&d, "", "  ")
	return string(b) + "\n", err
}

// notXML are the characters that the encoder would put others for, and line ends.
func notXML(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffe || r == 0xffff }

// newDisk is the i-th virtio disk.
func newDisk(path string, i int) (d diskDevice, err error) {
	if i >= 26 {
		return d, fmt.Errorf("%d disks, at most 26", i+1)
	}
	d.Type, d.Device = "file", "disk"
	d.Driver.Name, d.Driver.Type = "qemu", "raw"
	d.Target.Dev, d.Target.Bus = "vd"+string(rune('a'+i)), "virtio"
	d.Source.File, err = filepath.Abs(path)
	return d, err
}
