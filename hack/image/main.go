// SPDX-License-Identifier: Apache-2.0

// Command image packs static binaries into a container image without a container engine, and writes it as a docker-archive
// (what `docker load`, `kind load image-archive` and `ctr images import` read).
//
//	image -out FILE -tag NAME:TAG [-tag …] BINARY…
//
// Each binary stands at the root of the image; the first one is the entrypoint. The image runs as user 65532 and holds
// nothing else but /etc/passwd and an empty /tmp. The same binaries give the same image: its digest, which is printed, says
// whether anything changed.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const (
	user   = "65532:65532"
	passwd = "root:x:0:0::/:/sbin/nologin\nnonroot:x:65532:65532::/:/sbin/nologin\n"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("image: ")
	var tags []string
	out := flag.String("out", "", "archive to write")
	flag.Func("tag", "name:tag of the image (repeatable)", func(t string) error { tags = append(tags, t); return nil })
	flag.Parse()
	if *out == "" || len(tags) == 0 || flag.NArg() == 0 {
		flag.Usage()
		log.Fatal("-out, -tag and a binary are needed")
	}
	digest, err := write(*out, tags, flag.Args())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(digest)
}

// write packs the binaries into an image, stores it in the archive under every tag and returns its digest.
func write(out string, tags, binaries []string) (v1.Hash, error) {
	layer, err := layerOf(binaries)
	if err != nil {
		return v1.Hash{}, err
	}
	image, err := imageOf(layer, "/"+filepath.Base(binaries[0]))
	if err != nil {
		return v1.Hash{}, err
	}
	named := map[name.Tag]v1.Image{}
	for _, t := range tags {
		tag, err := name.NewTag(t)
		if err != nil {
			return v1.Hash{}, err
		}
		named[tag] = image
	}
	if err := tarball.MultiWriteToFile(out, named); err != nil {
		return v1.Hash{}, fmt.Errorf("write %s: %w", out, err)
	}
	return image.Digest()
}

func imageOf(layer []byte, entrypoint string) (v1.Image, error) {
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{Entrypoint: []string{entrypoint}, User: user, WorkingDir: "/", Env: []string{"PATH=/"}}
	return mutate.ConfigFile(image, config)
}

// layerOf returns the root file system as a tar whose bytes depend on the binaries alone.
func layerOf(binaries []string) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, content []byte) error {
		h.ModTime, h.Format, h.Size = time.Unix(0, 0), tar.FormatPAX, int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
	for _, dir := range []tar.Header{{Name: "etc/", Mode: 0o755, Typeflag: tar.TypeDir}, {Name: "tmp/", Mode: 0o1777, Typeflag: tar.TypeDir}} {
		if err := add(dir, nil); err != nil {
			return nil, err
		}
	}
	if err := add(tar.Header{Name: "etc/passwd", Mode: 0o644, Typeflag: tar.TypeReg}, []byte(passwd)); err != nil {
		return nil, err
	}
	for _, path := range binaries {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if err := add(tar.Header{Name: filepath.Base(path), Mode: 0o755, Typeflag: tar.TypeReg}, content); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), w.Close()
}
