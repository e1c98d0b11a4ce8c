// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"golang.org/x/sys/unix"

	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
)

// terminal is a pseudo-terminal with a program in it.
type terminal struct {
	t *testing.T
	// keyboard is where a person types, and reads: what the terminal shows comes in pieces.
	keyboard *os.File
	pieces   chan []byte
	shown    bytes.Buffer
	program  *exec.Cmd
	// screen is what the program has.
	screen *os.File
}

// inTerminal starts csctl in a terminal that is its controlling one, with the given variables beside those of the test.
func inTerminal(t *testing.T, env []string, args ...string) *terminal {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { _ = keyboard.Close() })
	must(t, unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	must(t, err)
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { _ = screen.Close() })
	x := &terminal{t: t, keyboard: keyboard, screen: screen, pieces: make(chan []byte, 100), program: csctl(t, env, args...)}
	x.program.Stdin, x.program.Stdout, x.program.Stderr = screen, screen, screen
	x.program.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, x.program.Start())
	go func() {
		defer close(x.pieces)
		for {
			piece := make([]byte, 1024)
			n, err := keyboard.Read(piece)
			if n > 0 {
				x.pieces <- piece[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	return x
}

func csctl(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "csctl", args...)
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// wait reads until the terminal has shown a text.
func (x *terminal) wait(text string) {
	x.t.Helper()
	for !strings.Contains(x.shown.String(), text) {
		select {
		case piece := <-x.pieces:
			x.shown.Write(piece)
		case <-time.After(time.Minute):
			x.t.Fatalf("the terminal shows %q, and not %q", x.shown.String(), text)
		}
	}
}

// enter types a text.
func (x *terminal) enter(text string) {
	x.t.Helper()
	_, err := x.keyboard.WriteString(text)
	must(x.t, err)
}

// end waits for the program and returns its exit code, and what the terminal has shown.
func (x *terminal) end() (int, string) {
	x.t.Helper()
	err := x.program.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		x.t.Fatal(err)
	}
	// What is typed now is shown only if the terminal shows what is typed.
	x.enter("still here?\n")
	x.wait("still here?")
	return x.program.ProcessState.ExitCode(), x.shown.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const terminalTag = "docker-scs-1-35-v1"

// releaseFolder returns the folder of a release.
func releaseFolder(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), terminalTag)
	must(t, os.CopyFS(folder, releasetest.Multistage(terminalTag)))
	return folder
}

func TestThePasswordOfAKeyIsAskedForInATerminal(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	sealed, err := encrypted.Encrypt(der, []byte("s3cret"))
	must(t, err)
	key := filepath.Join(t.TempDir(), "cosign.key")
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: sealed}), 0o600))
	t.Setenv("COSIGN_PASSWORD", "") // so that it comes back
	must(t, os.Unsetenv("COSIGN_PASSWORD"))
	prompt := "Password of " + key + ": "

	for name, tc := range map[string]struct {
		env   []string
		typed string // at the prompt; "" where there must be none
		code  int
		want  string
	}{
		"Right":              {typed: "s3cret\n", want: "is signed"},
		"Wrong":              {typed: "guessed\n", code: 1, want: "the password is wrong or missing"},
		"GivenUp":            {typed: "\x03", code: 1, want: "Error: password of " + key},
		"InTheEnvironment":   {env: []string{"COSIGN_PASSWORD=s3cret"}, want: "is signed"},
		"WrongInEnvironment": {env: []string{"COSIGN_PASSWORD=guessed"}, code: 1, want: "correct COSIGN_PASSWORD"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := releaseFolder(t)
			x := inTerminal(t, tc.env, "sign", folder, "--key", key)
			if tc.typed != "" {
				x.wait(prompt)
				x.hidden()
				x.enter(tc.typed)
			}
			code, shown := x.end()
			if code != tc.code || !strings.Contains(shown, tc.want) {
				t.Errorf("ended with %d and %q, want %d and %q", code, shown, tc.code, tc.want)
			}
			if strings.Contains(shown, "s3cret") || strings.Contains(shown, "guessed") {
				t.Errorf("the password is shown: %q", shown)
			}
			if asked := strings.Contains(shown, prompt); asked != (tc.typed != "") {
				t.Errorf("asked for: %t: %q", asked, shown)
			}
			if _, err := os.Stat(filepath.Join(folder, "SHA256SUMS")); (err == nil) != (tc.code == 0) {
				t.Errorf("signed: %v", err)
			}
		})
	}

	t.Run("NoTerminal", func(t *testing.T) {
		cmd := csctl(t, nil, "sign", releaseFolder(t), "--key", key)
		cmd.Stdin = strings.NewReader("s3cret\n")
		out, err := cmd.CombinedOutput()
		if want := "set COSIGN_PASSWORD, or run csctl in a terminal"; err == nil || !strings.Contains(string(out), want) || strings.Contains(string(out), prompt) {
			t.Errorf("got %v, %s; want %q", err, out, want)
		}
	})
}

// hidden waits until the terminal does not show any more what is typed.
func (x *terminal) hidden() {
	x.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		settings, err := unix.IoctlGetTermios(int(x.screen.Fd()), unix.TCGETS)
		must(x.t, err)
		if settings.Lflag&unix.ECHO == 0 {
			return
		}
		if time.Now().After(deadline) {
			x.t.Fatal("the terminal goes on to show what is typed")
		}
		time.Sleep(time.Millisecond)
	}
}

// Files on their way share one line of a terminal, which is gone at the end. Elsewhere each has its own.
func TestProgressIsLiveInATerminalOnly(t *testing.T) {
	const clear = "\r\x1b[K"
	for name, tc := range map[string]struct {
		env  []string
		live bool
	}{
		"Terminal": {env: []string{"TERM=xterm", "NO_COLOR="}, live: true},
		"NoColor":  {env: []string{"TERM=xterm", "NO_COLOR=1"}},
		"Dumb":     {env: []string{"TERM=dumb", "NO_COLOR="}},
	} {
		t.Run(name, func(t *testing.T) {
			x := inTerminal(t, tc.env, "publish", releaseFolder(t), filepath.Join(t.TempDir(), "to"))
			code, shown := x.end()
			line, end := "  metadata.yaml (", "\r\n"
			if tc.live {
				line, end = clear+line, ")"+clear
			}
			if code != 0 || !strings.Contains(shown, line) || !strings.Contains(shown, end) || strings.Contains(shown, "\x1b") != tc.live {
				t.Errorf("ended with %d and showed %q", code, shown)
			}
			if i := strings.LastIndex(shown, clear); tc.live && !strings.HasPrefix(shown[i+len(clear):], terminalTag+" is in ") {
				t.Errorf("what is said at the end follows something else: %q", shown)
			}
		})
	}
	t.Run("File", func(t *testing.T) {
		cmd := csctl(t, []string{"TERM=xterm", "NO_COLOR="}, "publish", releaseFolder(t), filepath.Join(t.TempDir(), "to"))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		must(t, cmd.Run())
		if text := stderr.String(); !strings.Contains(text, "  metadata.yaml (") || strings.ContainsAny(text, "\r\x1b") || strings.Count(text, "\n") != len(releasetest.Multistage(terminalTag)) {
			t.Errorf("got %q", text)
		}
	})
}
