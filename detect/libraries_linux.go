package detect

import "debug/elf"

// libraryDirs are where a prefix has its libraries.
var libraryDirs = []string{"lib", "lib64"}

// importedLibraries are the libraries that a binary names; none for a script, or what is not for this machine.
func importedLibraries(file string) []string {
	binary, err := elf.Open(file)
	if err != nil {
		return nil
	}
	defer func() { _ = binary.Close() }()
	names, _ := binary.ImportedLibraries()
	return names
}
