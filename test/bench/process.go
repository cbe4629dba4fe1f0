// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU times in /proc, the same on every Linux (proc(5)).
const clockTick = 10 * time.Millisecond

// process is what /proc/PID/stat says of one.
type process struct {
	parent int
	// own is its CPU time, all that of it and of its children that have ended.
	own, all time.Duration
}

func readProcess(pid int) (process, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	// The second field is a name in parentheses, which may hold blanks.
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	numbers := map[int]int64{1: 0, 11: 0, 12: 0, 13: 0, 14: 0} // ppid, utime, stime, cutime, cstime
	for i := range numbers {
		if numbers[i], err = strconv.ParseInt(fields[i], 10, 64); err != nil {
			return process{}, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
		}
	}
	own := time.Duration(numbers[11]+numbers[12]) * clockTick
	return process{parent: int(numbers[1]), own: own, all: own + time.Duration(numbers[13]+numbers[14])*clockTick}, nil
}

// cpuTime is how long a process has computed; 0 when it is gone.
func cpuTime(pid int) time.Duration {
	p, err := readProcess(pid)
	if err != nil {
		return 0
	}
	return p.own
}

// cpuTimeOfAll is how long this program and all that it started have computed.
// Unlike times, it hardly depends on what else the machine does.
func cpuTimeOfAll() time.Duration {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	processes := map[int]process{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil { // else it has just ended
			processes[pid] = p
		}
	}
	var sum time.Duration
	for pid, p := range processes {
		for ancestor := pid; ancestor > 1; ancestor = processes[ancestor].parent {
			if ancestor == os.Getpid() {
				sum += p.all
				break
			}
		}
	}
	return sum
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
