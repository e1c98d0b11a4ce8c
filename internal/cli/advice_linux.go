// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
)

// advised has commands say what to do about errors of the system, which know only what went wrong.
func advised(commands ...*cobra.Command) []*cobra.Command {
	for _, c := range commands {
		if run := c.RunE; run != nil {
			c.RunE = func(cmd *cobra.Command, args []string) error { return withCure(run(cmd, args)) }
		}
		advised(c.Commands()...)
	}
	return commands
}

func withCure(err error) error {
	if cure := cureOf(err); cure != "" {
		return fmt.Errorf("%w\n%s", err, cure)
	}
	return err
}

// cureOf says what to do about an error of the system, or nothing when it is none that we know.
func cureOf(err error) string {
	if err == nil {
		return ""
	}
	home, homeErr := daemon.Home()
	var in *fs.PathError
	ours := homeErr == nil && errors.As(err, &in) && isBelow(in.Path, home)
	for _, c := range []struct {
		cause unix.Errno
		ours  bool // only for the folder of sandboxes
		cure  string
	}{
		// Programs report a full disk in their own words, which end in those of the system.
		{unix.ENOSPC, false, fmt.Sprintf("the disk is full: free some space. csctl sandbox list shows what is below %s, csctl sandbox down removes a sandbox; XDG_STATE_HOME names another place for them", home)},
		{unix.EDQUOT, false, "your quota on this disk is used up: csctl sandbox down removes a sandbox, XDG_STATE_HOME names another place for them"},
		{unix.EACCES, true, "sandboxes are kept there: see to it that the folder is yours, or set XDG_STATE_HOME to one that is"},
		{unix.EPERM, true, "sandboxes are kept there: see to it that the folder is yours, or set XDG_STATE_HOME to one that is"},
		{unix.EROFS, true, "sandboxes are kept there: set XDG_STATE_HOME to a folder that can be written"},
		{unix.ENOTDIR, true, "sandboxes are kept there: remove the file that is in the way, or set XDG_STATE_HOME to another folder"},
		{unix.EMFILE, false, "this process may open no more files: raise the limit with ulimit -n"},
		{unix.ENFILE, false, "this machine has no more open files to give: end what is not needed, or raise fs.file-max"},
	} {
		if (errors.Is(err, c.cause) || !c.ours && strings.Contains(err.Error(), c.cause.Error())) && (ours || !c.ours) {
			return c.cure
		}
	}
	return ""
}

// isBelow tells whether a path leads into a folder, or is on the way to it.
func isBelow(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/") || strings.HasPrefix(folder, path+"/")
}
