package redact

import "bytes"

// automaton is Aho and Corasick's (Communications of the ACM 18(6), 1975) over bytes, as one dense table: each byte is
// one look-up, however many needles there are.
type automaton struct {
	classes [256]uint8 // bytes that occur in no needle share class 0
	width   int        // number of classes
	table   []int32    // state*width + class → state
	depth   []int32    // length of the prefix a state stands for
	match   []int32    // length of the longest needle that ends in a state; 0: none
	starts  []byte     // first bytes of needles, when they are few enough to search for
}

func newAutomaton(needles []string) *automaton {
	a := &automaton{}
	a.classify(needles)
	a.addState(0)
	for _, needle := range needles {
		state := int32(0)
		for i := 0; i < len(needle); i++ {
			at := int(state)*a.width + int(a.classes[needle[i]])
			if a.table[at] == 0 {
				a.table[at] = a.addState(int32(i + 1))
			}
			state = a.table[at]
		}
		a.match[state] = int32(len(needle))
	}
	a.link()
	return a
}

func (a *automaton) classify(needles []string) {
	a.width = 1
	first := map[byte]bool{}
	for _, needle := range needles {
		first[needle[0]] = true
		for i := 0; i < len(needle); i++ {
			if c := needle[i]; a.classes[c] == 0 {
				if a.width == 256 { // all bytes occur: the last shares class 0 with none
					continue
				}
				a.classes[c] = uint8(a.width)
				a.width++
			}
		}
	}
	if len(first) <= 3 {
		for c := range first {
			a.starts = append(a.starts, c)
		}
	}
}

func (a *automaton) addState(depth int32) int32 {
	a.table = append(a.table, make([]int32, a.width)...)
	a.depth = append(a.depth, depth)
	a.match = append(a.match, 0)
	return int32(len(a.depth) - 1)
}

// link turns the trie into the automaton, breadth first: where a state has no edge it goes where its longest proper
// suffix goes.
func (a *automaton) link() {
	fail := make([]int32, len(a.depth))
	var queue []int32
	for class := 0; class < a.width; class++ {
		if s := a.table[class]; s != 0 {
			queue = append(queue, s)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		state := queue[0]
		if a.match[state] == 0 {
			a.match[state] = a.match[fail[state]]
		}
		for class := 0; class < a.width; class++ {
			at, back := int(state)*a.width+class, a.table[int(fail[state])*a.width+class]
			if next := a.table[at]; next != 0 {
				fail[next] = back
				queue = append(queue, next)
			} else {
				a.table[at] = back
			}
		}
	}
}

func (a *automaton) next(state int32, c byte) int32 {
	return a.table[int(state)*a.width+int(a.classes[c])]
}

// skip is the index at or after i where a needle may begin.
func (a *automaton) skip(data []byte, i int) int {
	if a.starts == nil {
		return i
	}
	next := len(data)
	for _, c := range a.starts {
		if at := bytes.IndexByte(data[i:next], c); at >= 0 {
			next = i + at
		}
	}
	return next
}
