package collector

import "math/bits"

// siphash returns SipHash-2-4 of little-endian words: a keyed hash for which clients that
// do not know the key cannot construct collisions (Aumasson and Bernstein, 2012).
func siphash(key [2]uint64, words ...uint64) uint64 {
	v0, v1 := key[0]^0x736f6d6570736575, key[1]^0x646f72616e646f6d
	v2, v3 := key[0]^0x6c7967656e657261, key[1]^0x7465646279746573
	round := func() {
		v0, v2 = v0+v1, v2+v3
		v1, v3 = bits.RotateLeft64(v1, 13)^v0, bits.RotateLeft64(v3, 16)^v2
		v0 = bits.RotateLeft64(v0, 32)
		v2, v0 = v2+v1, v0+v3
		v1, v3 = bits.RotateLeft64(v1, 17)^v2, bits.RotateLeft64(v3, 21)^v0
		v2 = bits.RotateLeft64(v2, 32)
	}
	compress := func(word uint64) {
		v3 ^= word
		round()
		round()
		v0 ^= word
	}
	for _, word := range words {
		compress(word)
	}
	compress(uint64(len(words)) * 8 << 56) // the length in bytes
	v2 ^= 0xff
	for range 4 {
		round()
	}
	return v0 ^ v1 ^ v2 ^ v3
}
