package thread

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// Functions run on different threads, which are not the first one and end afterwards.
func TestGo(t *testing.T) {
	const n = 200
	var mu sync.Mutex
	threads := make(map[int]bool)
	block := make(chan struct{})
	var ended []<-chan struct{}
	for range n {
		ended = append(ended, Go(func() {
			mu.Lock()
			threads[unix.Gettid()] = true
			mu.Unlock()
			<-block
		}))
	}
	nstest.Eventually(t, "all functions run", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(threads) == n
	})
	if threads[unix.Getpid()] {
		t.Error("one runs on the first thread")
	}
	select {
	case <-ended[0]:
		t.Error("ended early")
	default:
	}
	close(block)
	for _, done := range ended {
		<-done
	}
	nstest.Eventually(t, "the threads end", func() bool {
		for tid := range threads {
			if _, err := os.Stat("/proc/self/task/" + strconv.Itoa(tid)); err == nil {
				return false
			}
		}
		return true
	})
}

// The end of its goroutine is the end of a function.
func TestGoexit(t *testing.T) {
	<-Go(runtime.Goexit)
}
