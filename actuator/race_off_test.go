//go:build !race

package actuator

const raceDetector = false
