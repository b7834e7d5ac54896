package image

import (
	"runtime"
	"sync"
)

// opened is a modules' folder that is being read while other parts of an image
// are: unpacking modules takes longer than all else but packing.
type opened struct {
	done chan struct{}
	tree *Modules
	err  error
}

// openAhead opens a modules' folder and loads the closure of what names stand for.
func openAhead(dir string, names []string) *opened {
	o := &opened{done: make(chan struct{})}
	go func() {
		defer close(o.done)
		if o.tree, o.err = OpenModules(dir); o.err == nil {
			o.tree.prefetch(expand(names, o.tree.DefaultModules()))
		}
	}()
	return o
}

func (o *opened) wait() (*Modules, error) {
	<-o.done
	return o.tree, o.err
}

// prefetch loads these modules and all that they depend on, several at a time.
// What fails is left to Closure, which says for which module it was needed.
func (m *Modules) prefetch(names []string) {
	tried := map[string]bool{}
	for len(names) > 0 {
		var wave []string
		for _, n := range names {
			if n = normal(n); !tried[n] && m.files[n] != nil {
				tried[n] = true
				wave = append(wave, n)
			}
		}
		loaded := make([]*loadedModule, len(wave))
		var wait sync.WaitGroup
		slots := make(chan struct{}, runtime.GOMAXPROCS(0))
		for i, n := range wave {
			slots <- struct{}{}
			wait.Go(func() {
				defer func() { <-slots }()
				loaded[i], _ = m.read(n)
			})
		}
		wait.Wait()
		names = nil
		for i, l := range loaded {
			if l == nil {
				continue
			}
			m.loaded[wave[i]] = l
			names = append(names, l.info.Depends...)
			for _, s := range l.info.SoftPre {
				names = append(names, m.soft(s))
			}
		}
	}
}
