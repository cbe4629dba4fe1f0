// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU times in /proc, the same on every Linux (proc(5)).
const clockTick = 10 * time.Millisecond

// process is what /proc/PID/stat says of one.
type process struct {
	name   string
	parent int
	// used is the CPU time of it and of its children that have ended.
	used time.Duration
}

func readProcess(pid int) (process, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	// The second field is a name in parentheses, which may hold blanks.
	open, end := bytes.IndexByte(content, '('), bytes.LastIndexByte(content, ')')
	fields := strings.Fields(string(content[end+1:]))
	const parent, utime, cstime = 1, 11, 14
	numbers := make([]int64, cstime+1)
	for i := parent; i <= cstime; i++ {
		if numbers[i], err = strconv.ParseInt(fields[i], 10, 64); err != nil {
			return process{}, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
		}
	}
	p := process{name: string(content[open+1 : end]), parent: int(numbers[parent])}
	for _, ticks := range numbers[utime:] { // utime, stime, cutime, cstime
		p.used += time.Duration(ticks) * clockTick
	}
	return p, nil
}

// cpuTimes is how long this program and those that it started have computed, by
// the beginning of their names. Unlike the time on the wall, it hardly depends
// on what else the machine does.
type cpuTimes map[string]time.Duration

func readCPUTimes() cpuTimes {
	processes := map[int]process{}
	entries, _ := os.ReadDir("/proc") // without /proc there are no numbers
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil { // else it has just ended
			processes[pid] = p
		}
	}
	times := cpuTimes{}
	for pid, p := range processes {
		for ancestor := pid; ancestor > 1; ancestor = processes[ancestor].parent {
			if ancestor == os.Getpid() {
				name, _, _ := strings.Cut(p.name, "-"+strconv.Itoa(os.Getpid())) // the manager's has it
				times[name] += p.used
				break
			}
		}
	}
	return times
}

func (t cpuTimes) since(earlier cpuTimes) cpuTimes {
	more := cpuTimes{}
	for name, used := range t {
		more[name] = used - earlier[name]
	}
	return more
}

func (t cpuTimes) total() (sum time.Duration) {
	for _, used := range t {
		sum += used
	}
	return sum
}

func (t cpuTimes) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if t[name] >= 100*time.Millisecond {
			parts = append(parts, fmt.Sprintf("%s %.1f", name, t[name].Seconds()))
		}
	}
	return fmt.Sprintf("%.1f s (%s)", t.total().Seconds(), strings.Join(parts, ", "))
}

// cpuTime is how long a process has computed.
func cpuTime(pid int) time.Duration {
	p, err := readProcess(pid)
	if err != nil {
		return 0 // it is gone
	}
	return p.used
}

// memory reads VmHWM (the most ever resident) and VmRSS of a process, in MiB.
func memory(pid int) (peak, resident float64, err error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		kib, parseErr := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		switch {
		case name != "VmHWM" && name != "VmRSS":
		case parseErr != nil:
			return 0, 0, fmt.Errorf("read %s of process %d: %w", name, pid, parseErr)
		case name == "VmHWM":
			peak = kib / 1024
		default:
			resident = kib / 1024
		}
	}
	return peak, resident, nil
}
