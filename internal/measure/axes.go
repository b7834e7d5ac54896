package measure

import (
	"fmt"
	"strconv"
	"strings"
)

// AxesSyntax is what ParseAxes takes, for the help of a flag.
const AxesSyntax = "vcpus=1-8,16:types=EPYC-Milan,EPYC-Genoa:sigs=0xa00f11:features=0x1,0x21:hosts=linux-6.9,linux-6.8"

// ParseAxes reads axes as they are written on a command line: name=value,value
// joined with colons, each name once and in any order; vcpus takes ranges.
// Whether the values make sense is Matrix's to say. Errors wrap ErrConfig.
func ParseAxes(s string) (Axes, error) {
	var ax Axes
	seen := make(map[string]bool)
	for part := range strings.SplitSeq(s, ":") {
		name, list, ok := strings.Cut(part, "=")
		if !ok || list == "" {
			return Axes{}, badAxes("%q is not NAME=VALUE,VALUE", part)
		}
		if seen[name] {
			return Axes{}, badAxes("%s appears twice", name)
		}
		seen[name] = true
		for v := range strings.SplitSeq(list, ",") {
			if v == "" {
				return Axes{}, badAxes("%s has an empty value", name)
			}
			if err := ax.add(name, v); err != nil {
				return Axes{}, err
			}
		}
	}
	return ax, ax.check()
}

func badAxes(format string, a ...any) error {
	return fmt.Errorf("%w: matrix: %s (for example %s)", ErrConfig, fmt.Sprintf(format, a...), AxesSyntax)
}

// add takes one value of the axis called name.
func (ax *Axes) add(name, v string) error {
	switch name {
	case "vcpus":
		return ax.addVCPUs(v)
	case "types":
		ax.Types = append(ax.Types, v)
	case "sigs":
		n, err := strconv.ParseUint(v, 0, 32)
		if err != nil || n == 0 {
			return badAxes("signature %q is not a 32-bit number above 0", v)
		}
		ax.Sigs = append(ax.Sigs, uint32(n))
	case "features":
		n, err := strconv.ParseUint(v, 0, 64)
		if err != nil || n == 0 {
			return badAxes("guest features %q are not a 64-bit number above 0", v)
		}
		ax.Features = append(ax.Features, n)
	case "hosts":
		ax.Hosts = append(ax.Hosts, v)
	default:
		return badAxes("unknown name %q", name)
	}
	return nil
}

// addVCPUs takes a number or a range such as 1-8.
func (ax *Axes) addVCPUs(v string) error {
	low, high, ranged := strings.Cut(v, "-")
	if !ranged {
		high = low
	}
	from, err := strconv.ParseUint(low, 10, 16)
	to, err2 := strconv.ParseUint(high, 10, 16)
	if err != nil || err2 != nil || from < 1 || from > to || to > maxVCPUs {
		return badAxes("%q is not a number of vCPUs from 1 to %d, or a range of them", v, maxVCPUs)
	}
	for n := from; n <= to; n++ {
		ax.VCPUs = append(ax.VCPUs, int(n))
	}
	return nil
}
