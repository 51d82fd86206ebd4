// Package thread runs functions on threads of their own.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Go calls fn on a thread of its own and closes the returned channel after its end. The thread
// ends with fn, which may change what the kernel keeps by thread, such as its network namespace;
// goroutines that fn starts run on other threads. That thread is not the first one of the process:
// /proc/self shows the first one.
func Go(fn func()) (done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // without an unlock, the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			<-Go(fn)
			runtime.UnlockOSThread()
			return
		}
		fn()
	}()
	return ended
}
