package measure

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// guid is a GUID as UEFI stores it: the first three groups little-endian.
type guid [16]byte

// mustGUID converts the written form of a constant of this package.
func mustGUID(s string) (g guid) {
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != 16 {
		panic("measure: constant GUID " + s)
	}
	copy(g[:], raw)
	g[0], g[1], g[2], g[3] = raw[3], raw[2], raw[1], raw[0]
	g[4], g[5] = raw[5], raw[4]
	g[6], g[7] = raw[7], raw[6]
	return g
}

func (g guid) String() string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(g[0:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:16])
}

// GUIDs of edk2's footer table (OvmfPkg/ResetVector) and of the hash table.
var (
	guidFooter      = mustGUID("96b582de-1fb2-45f7-baea-a366c55a082d")
	guidSEVMetadata = mustGUID("dc886566-984a-4798-a75e-5585a7bf67cc")
	guidHashTable   = mustGUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
	guidSecretBlock = mustGUID("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
	guidResetBlock  = mustGUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
	guidSVSMInfo    = mustGUID("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd")

	guidHashes      = mustGUID("9438d606-4f22-4cc9-b479-a793d411fd21")
	guidHashCmdline = mustGUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
	guidHashInitrd  = mustGUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
	guidHashKernel  = mustGUID("4de79437-abd2-427f-b835-d5b172d2045b")
)
