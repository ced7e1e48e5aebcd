// Prints containerd's default seccomp profile as JSON: what podrun's built-in profile is compared with. First the
// profile of a container without capabilities, then, for each capability, the entries that it adds and removes.
//
//	go run . > profile.json     keeps today's profile for the tests
//	go run . | diff profile.json -     says whether containerd's has changed since
package main

import (
	"encoding/json"
	"log"
	"os"
	"reflect"
	"slices"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/opencontainers/runtime-spec/specs-go"
)

type change struct {
	Added   []specs.LinuxSyscall `json:"added"`
	Removed []specs.LinuxSyscall `json:"removed"`
}

func profile(bounding ...string) *specs.LinuxSeccomp {
	capabilities := &specs.LinuxCapabilities{Bounding: bounding}
	return seccomp.DefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: capabilities}})
}

// without returns the entries of one that other does not have.
func without(one, other []specs.LinuxSyscall) []specs.LinuxSyscall {
	left := []specs.LinuxSyscall{}
	for _, entry := range one {
		same := func(o specs.LinuxSyscall) bool { return reflect.DeepEqual(entry, o) }
		if !slices.ContainsFunc(other, same) {
			left = append(left, entry)
		}
	}
	return left
}

func main() {
	base := profile()
	with := map[string]change{}
	for _, name := range cap.Known() {
		syscalls := profile(name).Syscalls
		with[name] = change{Added: without(syscalls, base.Syscalls), Removed: without(base.Syscalls, syscalls)}
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	if err := out.Encode(map[string]any{"base": base, "with": with}); err != nil {
		log.Fatal(err)
	}
}
