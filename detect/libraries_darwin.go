package detect

import "debug/macho"

// libraryDirs are where a prefix has its libraries; that of a framework is one level up: Python.framework/Versions/3.13/Python.
var libraryDirs = []string{"lib", "."}

// importedLibraries are the libraries that a binary names, a universal one for its first architecture; none for a script, or what is not
// for this machine.
func importedLibraries(file string) []string {
	if binary, err := macho.Open(file); err == nil {
		defer func() { _ = binary.Close() }()
		names, _ := binary.ImportedLibraries()
		return names
	}
	universal, err := macho.OpenFat(file)
	if err != nil {
		return nil
	}
	defer func() { _ = universal.Close() }()
	names, _ := universal.Arches[0].ImportedLibraries()
	return names
}
