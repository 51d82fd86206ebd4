package command

import (
	"slices"
	"strings"
)

// maxSuggestions limits the suggestions of an error.
const maxSuggestions = 3

// didYouMean returns a question for the end of an error; "" without names.
func didYouMean(prefix string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return " (did you mean " + prefix + strings.Join(names[:min(len(names), maxSuggestions)], " or "+prefix) + "?)"
}

// nearest returns the candidates that are similar to a word, or else those that begin with
// the word.
func nearest(word string, candidates []string) []string {
	if names := similar(word, candidates); len(names) > 0 || word == "" {
		return names
	}
	return slices.DeleteFunc(slices.Clone(candidates), func(c string) bool { return !strings.HasPrefix(c, word) })
}

// similar returns the candidates with the smallest edit distance to a word. The distance is
// at most a third of the length of the candidate, and at least one edit is allowed.
func similar(word string, candidates []string) (names []string) {
	best := 3
	for _, c := range candidates {
		distance := editDistance(word, c)
		if distance > best || distance > max(1, len(c)/3) {
			continue
		}
		if distance < best {
			best, names = distance, nil
		}
		names = append(names, c)
	}
	return names
}

// editDistance returns the number of bytes to insert, delete or replace, or of neighbours to
// swap, that turn a into b, with each byte edited once (optimal string alignment).
func editDistance(a, b string) int {
	row := func() []int { return make([]int, len(b)+1) }
	beforeLast, last, current := row(), row(), row()
	for j := range current {
		current[j] = j
	}
	for i := 1; i <= len(a); i++ {
		beforeLast, last, current = last, current, beforeLast
		current[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			current[j] = min(replace, last[j]+1, current[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], beforeLast[j-2]+1)
			}
		}
	}
	return current[len(b)]
}
