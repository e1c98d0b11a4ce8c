// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package repository_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Whoever meets a condition or a reason finds it in the reference, with what to do about it.
func TestReferenceKnowsEveryConditionAndReason(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("docs", "reference", "conditions.md"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join("api", "v1alpha1", "conditions.go"), nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, decl := range parsed.Decls {
		block, ok := decl.(*ast.GenDecl)
		if !ok || block.Tok != token.CONST {
			continue
		}
		for _, spec := range block.Specs {
			constant := spec.(*ast.ValueSpec)
			name := constant.Names[0].Name
			known[name] = true
			value, err := strconv.Unquote(constant.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(page), "| `"+value+"` |") {
				t.Errorf("docs/reference/conditions.md lacks %s; run `make generate`", value)
			}
			// A state is one sentence; a reason is one about what it means and one about what to do.
			sentences := strings.Count(strings.Join(strings.Fields(constant.Doc.Text()), " ")+" ", ". ")
			if want := 2; strings.HasPrefix(block.Doc.Text(), "Reasons of") && !strings.HasPrefix(block.Doc.Text(), "Reasons of events") && sentences < want {
				t.Errorf("the comment of %s has to say what the reason means and, in a second sentence, what to do", name)
			}
		}
	}

	// Only these constants are used as reasons, and each of them is.
	used := map[string]bool{}
	err = filepath.WalkDir("internal", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path == filepath.Join("internal", "sandbox"):
			return filepath.SkipDir // its conditions are of other kinds
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.CallExpr:
				if i, ok := reasonArgument(node); ok && i < len(node.Args) {
					if literal, ok := node.Args[i].(*ast.BasicLit); ok {
						t.Errorf("%s: the reason %s is no constant of api/v1alpha1/conditions.go", files.Position(literal.Pos()), literal.Value)
					}
				}
			case *ast.SelectorExpr:
				of, ok := node.X.(*ast.Ident)
				if ok && of.Name == "v1alpha1" {
					used[node.Sel.Name] = true
				}
				if ok && of.Name == "v1alpha1" && (strings.HasSuffix(node.Sel.Name, "Reason") || strings.HasSuffix(node.Sel.Name, "Condition")) && node.Sel.Name != "Condition" && !strings.HasPrefix(node.Sel.Name, "StagePhase") && !known[node.Sel.Name] {
					t.Errorf("%s: %s is not among the constants of api/v1alpha1/conditions.go", files.Position(node.Pos()), node.Sel.Name)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range known {
		if !used[name] {
			t.Errorf("nobody ever sees %s of api/v1alpha1/conditions.go: use it, or take it out", name)
		}
	}
}

// reasonArgument says which argument of a call is a reason, if one is.
func reasonArgument(call *ast.CallExpr) (int, bool) {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return 0, false
	}
	switch of, _ := selector.X.(*ast.Ident); {
	case of != nil && of.Name == "step" && (selector.Sel.Name == "Wait" || selector.Sel.Name == "Because"):
		return 0, true
	case selector.Sel.Name == "Eventf" && len(call.Args) >= 6:
		return 3, true // regarding, related, type, reason, action, note
	}
	return 0, false
}
