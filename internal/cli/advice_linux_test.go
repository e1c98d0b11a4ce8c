// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestErrorsOfTheSystemSayWhatToDo(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/state")
	at := func(path string, cause error) error {
		return fmt.Errorf("sandbox: %w", &fs.PathError{Op: "open", Path: path, Err: cause})
	}
	for name, tc := range map[string]struct {
		why  string
		give error
		want string
	}{
		"NoError":         {},
		"NotOfTheSystem":  {give: errors.New("no such sandbox")},
		"NotYours":        {give: at("/state/cluster-stack/sandbox/default/sandbox.json", unix.EACCES), want: "the folder is yours"},
		"ParentNotYours":  {why: "The folder cannot even be made.", give: at("/state", unix.EACCES), want: "the folder is yours"},
		"ReadOnly":        {give: at("/state/cluster-stack", unix.EROFS), want: "set XDG_STATE_HOME"},
		"FileInTheWay":    {give: at("/state/cluster-stack", unix.ENOTDIR), want: "remove the file"},
		"OtherFile":       {why: "XDG_STATE_HOME has nothing to do with it.", give: at("/crds.yaml", unix.EACCES)},
		"Neighbour":       {why: "Its name only begins alike.", give: at("/state/cluster-stack/sandbox-2", unix.EACCES)},
		"FullDisk":        {give: at("/anywhere", unix.ENOSPC), want: "disk is full"},
		"FullDiskForEtcd": {why: "A program's own words come through the log.", give: errors.New("etcd: exited: mkdir /x: no space left on device"), want: "disk is full"},
		"TooManyFiles":    {give: at("/proc", unix.EMFILE), want: "ulimit"},
	} {
		t.Run(name, func(t *testing.T) {
			got := cureOf(tc.give)
			if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q. %s", got, tc.want, tc.why)
			}
			if err := withCure(tc.give); !errors.Is(err, tc.give) {
				t.Errorf("the error is lost: %v", err)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	for name, tc := range map[string]struct {
		word       string
		candidates []string
		want       string
	}{
		"Swapped":    {word: "dve", candidates: []string{"prod", "dev"}, want: "dev"},
		"Missing":    {word: "opnstack", candidates: []string{"docker", "openstack"}, want: "openstack"},
		"Closest":    {word: "dev1", candidates: []string{"dev22", "dev2"}, want: "dev2"},
		"Nothing":    {word: "dev", candidates: []string{"production"}},
		"TooShort":   {word: "a", candidates: []string{"b"}},
		"Candidates": {word: "dev"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := nearest(tc.word, tc.candidates); got != tc.want {
				t.Errorf("got %q", got)
			}
		})
	}
}
