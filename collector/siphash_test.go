package collector

import (
	"testing"

	"tcphup/internal/boottime"
)

// The test vectors of the reference implementation (vectors.h): the bytes 0 to n-1 with
// the key 0 to 15.
func TestSipHash(t *testing.T) {
	key := [2]uint64{0x0706050403020100, 0x0f0e0d0c0b0a0908}
	for _, tt := range []struct {
		words []uint64
		want  uint64
	}{
		{nil, 0x726fdb47dd0e0e31},
		{[]uint64{0x0706050403020100}, 0x93f5f5799a932462},
		{[]uint64{0x0706050403020100, 0x0f0e0d0c0b0a0908}, 0x3f2acc7f57c29bdb},
	} {
		if got := siphash(key, tt.words...); got != tt.want {
			t.Errorf("%d words: %#016x, want %#016x", len(tt.words), got, tt.want)
		}
	}
}

func BenchmarkFirstSeenKey(b *testing.B) {
	t := newFirstSeenTable(boottime.Now)
	f := flow("10.0.0.1:40000", "10.0.0.2:80")
	b.ReportAllocs()
	for b.Loop() {
		t.key(&f)
	}
}
