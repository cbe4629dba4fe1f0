// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// pack writes an image of one binary, whose file has a name and times of its own directory, and returns archive and digest.
func pack(t *testing.T, content string) (archive, digest string) {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "server")
	if err := os.WriteFile(binary, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	archive = filepath.Join(dir, "image.tar")
	hash, err := write(archive, []string{"shop/checkout:1", "shop/checkout:abc"}, []string{binary})
	if err != nil {
		t.Fatal(err)
	}
	return archive, hash.String()
}

func TestSameBinarySameImage(t *testing.T) {
	_, digest := pack(t, "one")
	if _, again := pack(t, "one"); again != digest {
		t.Errorf("the same binary gave %s and %s", digest, again)
	}
	if _, other := pack(t, "two"); other == digest {
		t.Errorf("another binary gave the same digest %s", digest)
	}
}

func TestImageRunsTheBinaryWithoutRoot(t *testing.T) {
	archive, _ := pack(t, "one")
	tag, err := name.NewTag("shop/checkout:abc")
	if err != nil {
		t.Fatal(err)
	}
	image, err := tarball.ImageFromPath(archive, &tag)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; c.User != "65532:65532" || len(c.Entrypoint) != 1 || c.Entrypoint[0] != "/server" {
		t.Errorf("user %q, entrypoint %q; want 65532 and /server", c.User, c.Entrypoint)
	}
	files := mutate.Extract(image)
	defer files.Close() //nolint:errcheck // only read
	modes := map[string]int64{}
	for r := tar.NewReader(files); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		modes[h.Name] = h.Mode
	}
	if modes["server"] != 0o755 || modes["tmp"] != 0o1777 && modes["tmp/"] != 0o1777 {
		t.Errorf("files and modes (decimal): %v", modes)
	}
}
