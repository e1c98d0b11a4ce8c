// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package daemon keeps a sandbox running behind the user's back: it starts a process of its own that holds
// the sandbox, tells how it is, and ends it.
//
// What a daemon is doing stands in its state folder, for any csctl to read. That a daemon runs is known
// from a lock that the kernel drops when the daemon ends, so that a killed one is never taken for alive.
package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/statefile"
)

// The phases of a sandbox.
const (
	PhaseStarting = "Starting"
	PhaseReady    = "Ready"
	// PhaseFailed is a sandbox that did not come up; its logs are still there.
	PhaseFailed = "Failed"
	// PhaseDead is a sandbox whose daemon was killed, and with it all programs.
	PhaseDead = "Dead"
	// PhaseStopped is a sandbox that was ended and kept.
	PhaseStopped = "Stopped"
)

// State is what a daemon writes down about its sandbox.
type State struct {
	Name  string `json:"name"`
	Phase string `json:"phase"`
	// Error says why the sandbox failed.
	Error string `json:"error,omitempty"`
	PID   int    `json:"pid"`
	// StartTicks is the start time of the process, as the kernel counts: a later process of the same number
	// has another.
	StartTicks uint64    `json:"startTicks"`
	Since      time.Time `json:"since"`
	Addresses  string    `json:"addresses,omitempty"`
	Endpoint   string    `json:"endpoint,omitempty"`
	Kubeconfig string    `json:"kubeconfig,omitempty"`
	Releases   string    `json:"releases,omitempty"`
	// Registry is host and port of the OCI registry, empty when there is none.
	Registry string            `json:"registry,omitempty"`
	Versions binaries.Versions `json:"versions"`
	// Emulated is the minor that the Kubernetes of the management cluster behaves like, if not its own.
	Emulated   string              `json:"emulatedKubernetes,omitempty"`
	Components []sandbox.Component `json:"components,omitempty"`
	// Settings are those that Up was given; what a later Up does not say stays.
	Settings Options `json:"settings"`
	// Lasting says that the sandbox was ready once: what is in it is worth to go on with.
	Lasting bool `json:"lasting,omitempty"`
}

// validName keeps names usable as a folder and readable in messages.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Dir is the state folder of a sandbox.
func Dir(name string) (string, error) {
	if !validName.MatchString(name) {
		return "", fmt.Errorf("sandbox name %q: use up to 32 lower-case letters, digits and dashes", name)
	}
	home, err := Home()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, name), nil
}

// Home is the folder that has the state folders of all sandboxes of this user.
func Home() (string, error) {
	base := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the state folder: %w; set XDG_STATE_HOME", err)
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(withoutLinks(base), "cluster-stack", "sandbox"), nil
}

// withoutLinks resolves the symbolic links on a path, of which the last folders need not exist. Locks and processes are
// known by the names of folders, so one that can be reached in two ways must have one name.
func withoutLinks(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(withoutLinks(parent), filepath.Base(path))
}

// Names lists the sandboxes of this user in alphabetical order: those that run, and those of which something is left.
func Names() ([]string, error) {
	dir, err := Home()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && validName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// NotRunningError says that there is no such sandbox.
type NotRunningError struct{ Name string }

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("sandbox %s does not run; start it with csctl sandbox up --name %s", e.Name, e.Name)
}

// Read returns the state of a sandbox, or a NotRunningError when there is none.
func Read(name string) (State, error) {
	dir, err := Dir(name)
	if err != nil {
		return State{}, err
	}
	state, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, &NotRunningError{Name: name}
	}
	if err != nil {
		return State{}, err
	}
	if state.Phase != PhaseFailed && state.Phase != PhaseStopped && !state.alive() {
		state.Phase = PhaseDead
		state.Components = nil
	}
	return state, nil
}

func stateFile(dir string) string { return filepath.Join(dir, "sandbox.json") }

func readState(dir string) (State, error) {
	var state State
	err := statefile.Read(stateFile(dir), &state)
	if system := (*fs.PathError)(nil); err != nil && !errors.As(err, &system) { // the file is there and cannot be understood
		err = fmt.Errorf("%w; csctl sandbox down --name %s removes the sandbox", err, filepath.Base(dir))
	}
	return state, err
}

func (s State) write(dir string) error { return statefile.Write(stateFile(dir), s) }

// KeptBlocks are the blocks of addresses that the sandboxes of this user have, whether they run or not.
func KeptBlocks() []string {
	names, err := Names()
	if err != nil {
		return nil // then there are none that could be read
	}
	var blocks []string
	for _, name := range names {
		if state, err := Read(name); err == nil && state.Addresses != "" {
			blocks = append(blocks, state.block())
		}
	}
	return blocks
}

// block is what all addresses of a sandbox begin with, empty as long as it has none.
func (s State) block() string { return strings.TrimSuffix(s.Addresses, addressesOfABlock) }

// addressesOfABlock is what makes the name of a network out of a block.
const addressesOfABlock = ".0.0/16"

func (s State) alive() bool {
	ticks, err := startTicks(s.PID)
	return err == nil && ticks == s.StartTicks
}

// startTicks reads when a process started. A zombie has not, for our purposes: it holds nothing any more.
func startTicks(pid int) (uint64, error) {
	stat, err := process.ReadStat(pid)
	if err != nil {
		return 0, err
	}
	if stat.State == process.Zombie {
		return 0, errors.New("the process has ended")
	}
	return stat.StartTicks, nil
}

// lock takes the lock of a sandbox; whoever has it may use the state folder. The error is EADDRINUSE when
// somebody has it.
func lock(dir string) (*net.UnixListener, error) {
	return sandbox.Lock("state/" + dir)
}

func locked(err error) bool { return errors.Is(err, unix.EADDRINUSE) }
