package snpsim

import (
	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/idblock"
	"attestbox/internal/snpsim"
)

// idFlags are the ID block of a launch, named as QEMU's properties.
type idFlags struct {
	block, auth string
	author      bool
}

func (f *idFlags) register(fs *applet.FlagSet) {
	fs.StringVar(&f.block, "id-block", "", "ID block `file` of mkimage id-block; checked as the secure processor does")
	fs.StringVar(&f.auth, "id-auth", "", "ID authentication `file`, beside it")
	fs.BoolVar(&f.author, "author-key-enabled", false, "check the author key too, and show it in reports")
}

func (f *idFlags) check(fs *applet.FlagSet) error {
	switch {
	case (f.block == "") != (f.auth == ""):
		return fs.Usage("-id-block and -id-auth need each other")
	case f.author && f.block == "":
		return fs.Usage("-author-key-enabled needs -id-block")
	}
	return nil
}

// launch starts a guest, unless the secure processor refuses the ID block.
func (f *idFlags) launch(p *snpsim.PSP, c snpsim.GuestConfig) (*snpsim.Guest, error) {
	if f.block == "" {
		return p.Launch(c), nil
	}
	id := &snpsim.IDBlock{AuthorKeyEn: f.author}
	var err error
	if id.Block, err = applet.ReadFile(nil, f.block, idblock.BlockSize+1); err != nil {
		return nil, err
	}
	if id.Auth, err = applet.ReadFile(nil, f.auth, idblock.AuthSize+1); err != nil {
		return nil, err
	}
	g, err := p.LaunchFinish(c, id)
	if err != nil {
		return nil, applet.WithHint(applet.Refused(code.IDBlock, err), "sign what is launched: mkimage id-block")
	}
	return g, nil
}
