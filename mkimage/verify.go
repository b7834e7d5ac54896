package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/image"
)

func runVerify(_ context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("{-from DIR | -manifest FILE | flags of mkimage build} DIR|image.json",
		"mkimage verify -from /boot -from /lib/modules -from bin -from . image")
	parts := addParts(fs)
	var from applet.Strings
	fs.Var(&from, "from", "`DIR` below which the inputs lie, under whatever names: each is known by its recorded hash; may be repeated")
	verbose := fs.Bool("v", false, "show each step")
	if err := fs.Parse(args); err != nil {
		return err
	}
	given := false // flags that say what the image is made of
	fs.Visit(func(f *flag.Flag) { given = given || f.Name != "from" && f.Name != "v" })
	switch {
	case fs.NArg() != 1:
		return fs.Usage("want one image: its folder or its image.json")
	case given == (len(from) > 0):
		return fs.Usage("want either -from, or the manifest or flags that the image was built with")
	}
	rec, dir, err := image.ReadRecord(fs.Arg(0))
	if err != nil {
		return err
	}
	var m *image.Manifest
	if given {
		if m, err = parts.read(fs); err != nil {
			return err
		}
	} else {
		stage, err := os.MkdirTemp("", "mkimage-verify-")
		if err != nil {
			return fmt.Errorf("making a folder for links: %w", err)
		}
		defer os.RemoveAll(stage)
		if m, err = image.Find(rec, from, stage); err != nil {
			return explainFind(err)
		}
	}
	v, err := image.Verify(rec, dir, m, image.Options{Progress: steps(env, *verbose)})
	if err != nil {
		return classify(err)
	}
	return verdict(env, rec, v)
}

func explainFind(err error) error {
	switch {
	case errors.Is(err, image.ErrInput):
		return applet.WithHint(applet.Fail(code.ImageInput, err), "name further folders with -from, or give the manifest or the flags of the build")
	case errors.Is(err, image.ErrNoRecipe):
		return applet.WithHint(err, "the record is by another version of mkimage: give the manifest or the flags of the build")
	}
	return err
}

func verdict(env *applet.Env, rec *image.Record, v *image.Verified) error {
	for _, t := range v.Tools {
		fmt.Fprintf(env.Stderr, "%s: note: %s\n", env.Name, harmless(t))
	}
	for _, a := range v.Absent {
		fmt.Fprintf(env.Stderr, "%s: note: %s is not beside %s: compared by its recorded hash\n", env.Name, a, image.RecordName)
	}
	if len(v.Differences) == 0 {
		fmt.Fprintf(env.Stderr, "%s: the same: %d inputs, %d entries, initrd %d bytes\n", env.Name, len(rec.Inputs), len(rec.Files), rec.Outputs.Initrd.Size)
		built := v.Image.Record
		if built.Debug {
			fmt.Fprintf(env.Stderr, "%s: DEBUG IMAGE: never to be trusted\n", env.Name)
		}
		if note := forSimulator(&image.Report{Record: built, Simulator: built.Simulator}); note != "" {
			fmt.Fprintf(env.Stderr, "%s: %s\n", env.Name, note)
		}
		if !rec.Measurement.Complete {
			fmt.Fprintf(env.Stderr, "%s: INCOMPLETE digest: %s\n", env.Name, rec.Measurement.Why)
		}
		_, err := fmt.Fprintln(env.Stdout, v.Image.Record.Measurement.LaunchDigest)
		return err
	}
	for _, d := range v.Differences {
		fmt.Fprintf(env.Stderr, "%s: DIFFERS %s\n", env.Name, harmless(d))
	}
	err := applet.Refused(code.ImageRebuild, fmt.Errorf("the image is not the one that its inputs make: %s", harmless(v.Differences[0])))
	if len(v.Tools) > 0 {
		return applet.WithHint(err, "other versions may explain other bytes: use mkimage "+harmless(rec.Tool.Version)+" built by "+harmless(rec.Tool.Go))
	}
	return applet.WithHint(err, "do not register its digest")
}
