// Command interleave runs shell commands in turn, round by round, each as a child
// process, and prints a row of a table for each: median wall time, median CPU time,
// largest resident memory (wait4's), and the wall time's ratio to the last one's.
// What else runs on the machine meets all of them alike; medians forgive the rest.
//
//	interleave ROUNDS NAME COMMAND NAME COMMAND ...
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"
)

type command struct {
	name, text string
	wall, cpu  []time.Duration
	rss        int64 // KiB
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "interleave: "+err.Error())
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 || len(args)%2 != 1 {
		return errors.New("want ROUNDS, then pairs of NAME and COMMAND")
	}
	rounds, err := strconv.Atoi(args[0])
	if err != nil || rounds < 1 {
		return fmt.Errorf("%q rounds", args[0])
	}
	var commands []*command
	for i := 1; i < len(args); i += 2 {
		commands = append(commands, &command{name: args[i], text: args[i+1]})
	}
	for round := range rounds + 1 { // the first warms caches and does not count
		for _, c := range commands {
			if err := c.once(round > 0); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	last := median(commands[len(commands)-1].wall)
	for _, c := range commands {
		w := median(c.wall)
		fmt.Printf("| %s | %.1f ms | %.1f ms | %.1f MiB | %.2f |\n", c.name, ms(w), ms(median(c.cpu)), float64(c.rss)/1024, float64(w)/float64(last))
	}
	return nil
}

func (c *command) once(count bool) error {
	cmd := exec.Command("sh", "-c", c.text)
	cmd.Stderr = os.Stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return err
	}
	wall := time.Since(start)
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if count {
		c.wall = append(c.wall, wall)
		c.cpu = append(c.cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		c.rss = max(c.rss, usage.Maxrss)
	}
	return nil
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }
