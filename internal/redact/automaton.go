package redact

import (
	"cmp"
	"slices"
)

// denseMax bounds the dense table: entries of 4 bytes.
const denseMax = 1 << 17

// automaton is Aho and Corasick's (Communications of the ACM 18(6), 1975) over bytes: one step per byte, however many
// needles there are. States near the root, where nearly every byte of ordinary text ends, are rows of a dense table. The states
// beyond, bound by the needles' length alone, take 5 bytes each: they lie one behind the other along a needle, so
// that a step is a comparison, and a mismatch follows fail.
type automaton struct {
	pairs [1024]uint64 // bitmap of the first two bytes of needles
	first [256]bool    // first bytes of needles

	classes [256]uint8 // bytes that occur in no needle share class 0
	width   int        // number of classes
	limit   int        // of table's length
	dense   int32      // states below are rows of table
	table   []int32    // state*width + class → state; its complement where a needle ends
	depths  []int32    // dense state → length of the prefix it stands for
	ends    []int32    // dense state → length of the longest needle that ends there; 0: none

	// Of the states from dense on; indices are state - dense.
	labels   []byte            // the byte that leads to the state
	fail     []int32           // state of the longest proper suffix that begins a needle
	chains   []chain           // in order of their states
	begins   bits              // the state is the first of a chain: the one before it does not lead to it
	branches map[int32][]int32 // state → first states of chains that branch off it
	outputs  map[int32]int32   // state → length of the longest needle that ends there
	// The keys of branches and outputs.
	branching, ending bits
}

// chain is a run of states that follow one needle.
type chain struct {
	state  int32 // its first
	parent int32 // the state it branches off
	depth  int32 // of its first state
	length int32
}

type bits []uint64

func (b bits) has(i int32) bool { return b[i>>6]&(1<<(i&63)) != 0 }
func (b bits) set(i int32)      { b[i>>6] |= 1 << (i & 63) }

// newAutomaton takes needles of two bytes and more, in any order.
func newAutomaton(needles []string) *automaton { return buildAutomaton(needles, denseMax) }

// buildAutomaton bounds the dense table to a number of entries.
func buildAutomaton(needles []string, limit int) *automaton {
	needles = slices.Compact(slices.Sorted(slices.Values(needles)))
	a := &automaton{limit: limit, branches: map[int32][]int32{}, outputs: map[int32]int32{}}
	a.classify(needles)
	a.grow(needles)
	a.linkDense()
	a.linkChains()
	a.flag()
	return a
}

func (a *automaton) classify(needles []string) {
	a.width = 1
	for _, needle := range needles {
		pair := uint(needle[0])<<8 | uint(needle[1])
		a.pairs[pair>>6] |= 1 << (pair & 63)
		a.first[needle[0]] = true
		for i := range len(needle) {
			if c := needle[i]; a.classes[c] == 0 && a.width < 256 { // all bytes occur: the last shares class 0 with none
				a.classes[c] = uint8(a.width)
				a.width++
			}
		}
	}
}

// common is the length of the common prefix.
func common(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// denseDepth is the depth down to which all states are rows of the table: as deep as it stays small. counts are the
// numbers of states by depth.
func (a *automaton) denseDepth(counts []int32) int {
	rows, depth := int32(1), 0
	for depth+1 < len(counts) && int(rows+counts[depth+1])*a.width <= a.limit {
		depth++
		rows += counts[depth]
	}
	a.dense = rows
	return depth
}

// grow makes the trie of sorted needles: dense states are numbered by depth, the others along their needle.
func (a *automaton) grow(needles []string) {
	longest, total := 0, 0
	for _, needle := range needles {
		longest = max(longest, len(needle))
	}
	counts := make([]int32, longest+1)
	for i, needle := range needles {
		for d := shared(needles, i); d < len(needle); d++ {
			counts[d+1]++
			total++
		}
	}
	deep := a.denseDepth(counts)
	next := make([]int32, deep+2) // depth → the next dense state of it
	next[0] = 1
	for d := 1; d <= deep; d++ {
		next[d] = 1
		for e := 1; e < d; e++ {
			next[d] += counts[e]
		}
	}
	a.table = make([]int32, int(a.dense)*a.width)
	a.depths, a.ends = make([]int32, a.dense), make([]int32, a.dense)
	sparse := total + 1 - int(a.dense)
	a.labels, a.fail = make([]byte, 0, sparse), make([]int32, sparse)
	a.begins, a.branching, a.ending = make(bits, sparse/64+1), make(bits, sparse/64+1), make(bits, sparse/64+1)
	path := make([]int32, longest+1) // depth → state along the needle
	for i, needle := range needles {
		d := shared(needles, i)
		for ; d < min(len(needle), deep); d++ {
			path[d+1] = next[d+1]
			next[d+1]++
			a.depths[path[d+1]] = int32(d + 1)
			a.table[a.at(path[d], needle[d])] = path[d+1]
		}
		if d < len(needle) {
			a.addChain(needle, d, path)
		}
		a.addOutput(path[len(needle)], int32(len(needle)))
	}
}

// shared is how much of a needle its predecessor has laid already.
func shared(needles []string, i int) int {
	if i == 0 {
		return 0
	}
	return common(needles[i-1], needles[i])
}

func (a *automaton) at(state int32, c byte) int { return int(state)*a.width + int(a.classes[c]) }

// addChain lays needle[d:] behind path[d].
func (a *automaton) addChain(needle string, d int, path []int32) {
	parent, state := path[d], a.dense+int32(len(a.labels))
	for i := d; i < len(needle); i++ {
		path[i+1] = state + int32(i-d)
	}
	a.labels = append(a.labels, needle[d:]...)
	switch {
	case parent < a.dense:
		a.table[a.at(parent, needle[d])] = state
	case parent+1 == state: // the needle before is a prefix of this one
		a.chains[len(a.chains)-1].length += int32(len(needle) - d)
		return
	default:
		a.branches[parent] = append(a.branches[parent], state)
		a.branching.set(parent - a.dense)
	}
	a.begins.set(state - a.dense)
	a.chains = append(a.chains, chain{state: state, parent: parent, depth: int32(d + 1), length: int32(len(needle) - d)})
}

func (a *automaton) addOutput(state, length int32) {
	if state < a.dense {
		a.ends[state] = length
		return
	}
	a.outputs[state] = length
	a.ending.set(state - a.dense)
}

// linkDense completes the rows, by depth: where a state has no edge it goes where its longest proper suffix goes.
func (a *automaton) linkDense() {
	fail := make([]int32, a.dense)
	for state := int32(0); state < a.dense; state++ {
		if a.ends[state] == 0 {
			a.ends[state] = a.ends[fail[state]]
		}
		row, back := a.row(state), a.row(fail[state])
		for class, child := range row {
			switch {
			case child >= a.dense:
				if state != 0 {
					a.fail[child-a.dense] = back[class]
				}
			case child == 0:
				row[class] = back[class]
			case state != 0:
				fail[child] = back[class]
			}
		}
	}
}

func (a *automaton) row(state int32) []int32 {
	return a.table[int(state)*a.width : int(state+1)*a.width]
}

// linkChains finds the suffixes of the other states, by depth as well: all chains are followed side by side.
func (a *automaton) linkChains() {
	waiting := slices.Clone(a.chains)
	slices.SortStableFunc(waiting, func(x, y chain) int { return cmp.Compare(x.depth, y.depth) })
	var active []chain
	for depth := int32(0); len(waiting) > 0 || len(active) > 0; depth++ {
		if len(active) == 0 {
			depth = waiting[0].depth
		}
		for len(waiting) > 0 && waiting[0].depth == depth {
			active, waiting = append(active, waiting[0]), waiting[1:]
		}
		still := active[:0]
		for _, c := range active {
			a.linkState(c, depth)
			if depth+1 < c.depth+c.length {
				still = append(still, c)
			}
		}
		active = still
	}
}

func (a *automaton) linkState(c chain, depth int32) {
	state := c.state + depth - c.depth
	if before := state - 1; depth > c.depth {
		a.fail[state-a.dense] = a.next(a.fail[before-a.dense], a.labels[state-a.dense])
	} else if c.parent >= a.dense {
		a.fail[state-a.dense] = a.next(a.fail[c.parent-a.dense], a.labels[state-a.dense])
	}
	if !a.ending.has(state - a.dense) {
		if length := a.end(a.fail[state-a.dense]); length > 0 {
			a.addOutput(state, length)
		}
	}
}

// flag marks the table's entries that lead to the end of a needle.
func (a *automaton) flag() {
	for i, state := range a.table {
		if a.end(state) > 0 {
			a.table[i] = ^state
		}
	}
}

// next is the state after c, or its complement where a needle ends there and c left the chain for the table.
func (a *automaton) next(state int32, c byte) int32 {
	for state >= a.dense {
		at := state - a.dense
		if int(at)+1 < len(a.labels) && a.labels[at+1] == c && !a.begins.has(at+1) {
			return state + 1
		}
		if a.branching.has(at) {
			for _, child := range a.branches[state] {
				if a.labels[child-a.dense] == c {
					return child
				}
			}
		}
		state = a.fail[at]
	}
	return a.table[a.at(state, c)]
}

// end is the length of the longest needle that ends in a state; 0: none does.
func (a *automaton) end(state int32) int32 {
	if state < a.dense {
		return a.ends[state]
	}
	if a.ending.has(state - a.dense) {
		return a.outputs[state]
	}
	return 0
}

// depth is the length of the prefix that a state stands for.
func (a *automaton) depth(state int32) int {
	if state < a.dense {
		return int(a.depths[state])
	}
	i, exact := slices.BinarySearchFunc(a.chains, state, func(c chain, state int32) int { return cmp.Compare(c.state, state) })
	if !exact {
		i--
	}
	return int(a.chains[i].depth + state - a.chains[i].state)
}

// skip is the index at or after i where a needle may begin.
func (a *automaton) skip(data []byte, i int) int {
	for ; i+1 < len(data); i++ {
		pair := uint(data[i])<<8 | uint(data[i+1])
		if a.pairs[pair>>6]&(1<<(pair&63)) != 0 {
			return i
		}
	}
	if i < len(data) && a.first[data[i]] {
		return i
	}
	return len(data)
}
