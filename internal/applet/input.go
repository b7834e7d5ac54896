package applet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"attestbox/internal/secret"
)

// ReadFile reads a file of at most max bytes that is not secret; - is stdin
// where there is an env.
func ReadFile(env *Env, name string, max int64) ([]byte, error) {
	r, done, err := open(env, name)
	if err != nil {
		return nil, err
	}
	defer done()
	b, err := io.ReadAll(io.LimitReader(r, max+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %q: %w", name, err)
	case int64(len(b)) > max:
		return nil, fmt.Errorf("reading %q: more than %d bytes", name, max)
	}
	return b, nil
}

// ReadSecret is ReadFile for a secret. An empty one is an error.
func ReadSecret(env *Env, name string, max int) (*secret.Bytes, error) {
	r, done, err := open(env, name)
	if err != nil {
		return nil, err
	}
	defer done()
	s, err := secret.ReadAll(r, max)
	if err == nil && s.Len() == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	return s, nil
}

// ReadPassphrase is ReadSecret without the line's end.
func ReadPassphrase(env *Env, name string) (*secret.Bytes, error) {
	s, err := ReadSecret(env, name, 4096)
	if err != nil {
		return nil, err
	}
	defer s.Zero()
	return secret.Copy(bytes.TrimRight(s.Bytes(), "\r\n")), nil
}

func open(env *Env, name string) (io.Reader, func(), error) {
	if name == "-" && env != nil {
		return env.Stdin, func() {}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	return f, func() { f.Close() }, nil
}
