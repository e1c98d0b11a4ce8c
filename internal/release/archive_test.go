// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
)

// pack writes a tar.gz archive of entries, with content in each regular file.
func pack(t testing.TB, content string, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(zipped)
	for _, header := range entries {
		if header.Typeflag == tar.TypeReg {
			header.Size = int64(len(content))
		}
		if header.Typeflag != tar.TypeXGlobalHeader {
			header.Mode = 0o644
		}
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			if _, err := archive.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func regular(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }

func TestReadArchiveReadsWhatPeoplePack(t *testing.T) {
	packed := pack(t, "x",
		tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "git archive"}},
		tar.Header{Typeflag: tar.TypeDir, Name: "./"},
		tar.Header{Typeflag: tar.TypeDir, Name: "./cni/"},
		regular("./cni/templates/a.yaml"),
		regular("cni/Chart.yaml"),
		regular("cni/.helmignore"),
		regular("cni/files/with blank and ä.txt"),
	)
	files, err := readArchive(packed)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	want := "cni/.helmignore cni/Chart.yaml cni/files/with blank and ä.txt cni/templates/a.yaml"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestReadArchiveRefuses(t *testing.T) {
	for name, packed := range map[string][]byte{
		"Nothing":          nil,
		"NoGzip":           []byte("apiVersion: v1"),
		"NoTar":            zip(t, strings.NewReader(strings.Repeat("no tar ", 100))),
		"CutOff":           cut(pack(t, strings.Repeat("x", 4096), regular("a/b"))),
		"WrongChecksum":    flip(pack(t, "x", regular("a/b"))),
		"ParentFolder":     pack(t, "x", regular("../evil")),
		"ParentInside":     pack(t, "x", regular("a/../../evil")),
		"ParentAtEnd":      pack(t, "x", regular("a/..")),
		"ParentAfterDot":   pack(t, "x", regular("./../evil")),
		"Absolute":         pack(t, "x", regular("/etc/passwd")),
		"AbsoluteDoubled":  pack(t, "x", regular("//etc/passwd")),
		"Backslashes":      pack(t, "x", regular(`..\evil`)),
		"DriveLetter":      pack(t, "x", regular("C:/evil")),
		"DoubledSlash":     pack(t, "x", regular("a//b")),
		"JustADot":         pack(t, "x", regular(".")),
		"DoubledDot":       pack(t, "x", regular("././b")),
		"Newline":          pack(t, "x", regular("a/b\nc")),
		"Escape":           pack(t, "x", regular("a/\x1b[2Jb")),
		"ParentAsFolder":   pack(t, "", tar.Header{Typeflag: tar.TypeDir, Name: "../evil/"}),
		"Symlink":          pack(t, "", tar.Header{Typeflag: tar.TypeSymlink, Name: "a/l", Linkname: "/etc/passwd"}),
		"HarmlessSymlink":  pack(t, "", tar.Header{Typeflag: tar.TypeSymlink, Name: "a/l", Linkname: "b"}),
		"Hardlink":         pack(t, "", tar.Header{Typeflag: tar.TypeLink, Name: "a/l", Linkname: "/etc/passwd"}),
		"Device":           pack(t, "", tar.Header{Typeflag: tar.TypeChar, Name: "a/d"}),
		"Pipe":             pack(t, "", tar.Header{Typeflag: tar.TypeFifo, Name: "a/p"}),
		"Twice":            pack(t, "x", regular("a/b"), regular("a/b")),
		"TwiceByOtherName": pack(t, "x", regular("a/b"), regular("./a/b")),
		"LongPath":         pack(t, "x", regular(strings.Repeat("a/", 20)+strings.Repeat("b", 300))),
		"DeepPath":         pack(t, "x", regular(strings.Repeat("a/", 40)+"b")),
		"BlockDevice":      pack(t, "", tar.Header{Typeflag: tar.TypeBlock, Name: "a/d"}),
		"UnknownKind":      zip(t, bytes.NewReader(append(block("a/b", '?', 0), make([]byte, 1024)...))),
		"LinkThenThrough":  pack(t, "x", tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "/tmp"}, regular("a/evil")),
		"FolderOfDots":     pack(t, "", tar.Header{Typeflag: tar.TypeDir, Name: "a/../"}),
		"NoName":           zip(t, bytes.NewReader(append(block("", tar.TypeReg, 0), make([]byte, 1024)...))),
		"EndsInASlash":     zip(t, bytes.NewReader(append(block("../", tar.TypeReg, 0), make([]byte, 1024)...))),
		"PAXPathEscapes":   extended(t, "path=../evil", 0),
		"PAXPathAbsolute":  extended(t, "path=/etc/passwd", 0),
		"PAXSizeTooLarge":  extended(t, "size=99999999999", 0),
		"PAXSizeNegative":  extended(t, "size=-1", 0),
		"PAXLinkInDisguise": zip(t, io.MultiReader(
			bytes.NewReader(record("linkpath=/etc/passwd")), bytes.NewReader(block("a/b", tar.TypeSymlink, 0)), bytes.NewReader(make([]byte, 1024)))),
		"LongNameEscapes": pack(t, "x", tar.Header{Typeflag: tar.TypeReg, Format: tar.FormatGNU, Name: strings.Repeat("a/", 60) + "../../evil"}),
	} {
		t.Run(name, func(t *testing.T) {
			if files, err := readArchive(packed); err == nil {
				t.Errorf("read %d files", len(files))
			}
		})
	}
}

func TestReadArchiveStopsBombs(t *testing.T) {
	many := make([]tar.Header, maxEntries+1)
	for i := range many {
		many[i] = tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("d%d/", i)}
	}
	var sum []tar.Header
	for i := range maxUnpackedSize/maxFileSize + 2 {
		sum = append(sum, regular(fmt.Sprintf("f%d", i)))
	}
	for name, tt := range map[string]struct {
		packed []byte
		want   string
	}{
		"LargeFile":   {pack(t, noise(t, maxFileSize+1), regular("a")), "larger than 5 MiB"},
		"ManyEntries": {pack(t, "", many...), "more than 10000 entries"},
		"LargeSum":    {pack(t, strings.Repeat("x", maxFileSize), sum...), "unpacks to more than"},
		"OnlyZeros":   {zip(t, io.LimitReader(zeros{}, 1<<26)), "unpacks to more than"},
		"ZerosAtEnd": {
			zip(t, io.MultiReader(bytes.NewReader(unzip(t, pack(t, "x", regular("a")))), io.LimitReader(zeros{}, 1<<26))),
			"unpacks to more than",
		},
		"SparseHoles": {sparse(t), "unpacks to more than"},
	} {
		t.Run(name, func(t *testing.T) {
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := readArchive(tt.packed)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
			// What was allocated in all is more than what was held at once, and easier to measure.
			if got := (after.TotalAlloc - before.TotalAlloc) >> 20; got > 256 {
				t.Errorf("allocated %d MiB in all", got)
			}
		})
	}
}

// noise returns text that does not compress.
func noise(t testing.TB, size int64) string {
	t.Helper()
	var out strings.Builder
	if _, err := io.CopyN(&out, rand.NewChaCha8([32]byte{}), size); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestReadArchiveReadsLargeCharts(t *testing.T) {
	files, err := readArchive(pack(t, noise(t, maxFileSize), regular("a"), regular("b")))
	if err != nil || len(files) != 2 || len(files[1].Data) != maxFileSize {
		t.Errorf("got %d files, %v", len(files), err)
	}
	files, err = readArchive(pack(t, strings.Repeat("# a comment as long as those in charts\n", 50_000), regular("a")))
	if err != nil || len(files) != 1 {
		t.Errorf("very regular text: got %d files, %v", len(files), err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func zip(t testing.TB, r io.Reader) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(zipped, r); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func unzip(t testing.TB, packed []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// sparse returns an archive of many files that claim megabytes each and hold nothing but a hole.
func sparse(t testing.TB) []byte {
	t.Helper()
	var records, raw bytes.Buffer
	for _, record := range []string{"GNU.sparse.major=0", "GNU.sparse.minor=1", "GNU.sparse.numblocks=0", "GNU.sparse.size=5242880"} {
		fmt.Fprintf(&records, "%d %s\n", len(record)+4, record)
	}
	for i := range 1000 {
		name := fmt.Sprintf("f%d", i)
		raw.Write(block(name, tar.TypeXHeader, records.Len()))
		raw.Write(records.Bytes())
		raw.Write(make([]byte, 512-records.Len()))
		raw.Write(block(name, tar.TypeReg, 0))
	}
	raw.Write(make([]byte, 1024))
	return zip(t, &raw)
}

// extended returns an archive with one file about which an extended header says something else.
func extended(t testing.TB, text string, size int) []byte {
	t.Helper()
	return zip(t, io.MultiReader(bytes.NewReader(record(text)), bytes.NewReader(block("a/b", tar.TypeReg, size)), bytes.NewReader(make([]byte, 1024))))
}

// record returns an extended header with one record.
func record(text string) []byte {
	line := fmt.Sprintf("%d %s\n", len(text)+4, text)
	if len(text)+4 < 10 {
		line = fmt.Sprintf("%d %s\n", len(text)+3, text)
	}
	return append(append(block("pax", tar.TypeXHeader, len(line)), line...), make([]byte, 512-len(line))...)
}

// block returns the header of an entry as the tar package does not write it.
func block(name string, kind byte, size int) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x0000000000000\x00        ", size))
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func cut(packed []byte) []byte { return packed[:len(packed)-6] }

func flip(packed []byte) []byte {
	packed[len(packed)-8] ^= 1 // the first byte of gzip's checksum
	return packed
}

func FuzzReadTar(f *testing.F) {
	f.Add(unzip(f, pack(f, "x", regular("cni/Chart.yaml"), tar.Header{Typeflag: tar.TypeDir, Name: "cni/"})))
	f.Add(unzip(f, pack(f, "", tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../x"})))
	f.Add(unzip(f, pack(f, "x", regular("../x"))))
	f.Fuzz(func(t *testing.T, archive []byte) {
		files, err := readTar(bytes.NewReader(archive))
		if err != nil {
			return
		}
		for i, file := range files {
			if checkPath(file.Name) != nil {
				t.Errorf("file %q got through", file.Name)
			}
			if i > 0 && files[i-1].Name >= file.Name {
				t.Errorf("%q stands after %q", file.Name, files[i-1].Name)
			}
		}
	})
}
