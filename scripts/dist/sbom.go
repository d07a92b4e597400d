package main

import (
	"debug/buildinfo"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

// billOfMaterials writes, in CycloneDX, which modules each program was linked from, as the Go linker noted it in the program.
func (r *release) billOfMaterials(platforms []platform) error {
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp: r.date.Format(time.RFC3339),
		Component: &cyclonedx.Component{BOMRef: "attune", Type: cyclonedx.ComponentTypeApplication, Name: "attune", Version: "v" + r.version},
	}
	modules := map[string]cyclonedx.Component{}
	var components []cyclonedx.Component
	var dependencies []cyclonedx.Dependency
	identity := r.version
	for _, p := range platforms {
		for _, name := range r.programsFor(p) {
			program, uses, err := r.linked(name, p, modules)
			if err != nil {
				return err
			}
			components, dependencies = append(components, program), append(dependencies, uses)
			identity += (*program.Hashes)[0].Value
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(modules)) {
		components = append(components, modules[ref])
	}
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceOID, []byte(identity)).URN() // of the content, so that it is reproducible
	bom.Components, bom.Dependencies = &components, &dependencies
	return r.write("attune-"+r.version+".cdx.json", func(w io.Writer) error {
		return cyclonedx.NewBOMEncoder(w, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
	})
}

// linked reads one program's modules, adds them to all, and gives the program with what it depends on.
func (r *release) linked(name string, p platform, all map[string]cyclonedx.Component) (cyclonedx.Component, cyclonedx.Dependency, error) {
	path := r.program(name, p)
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return cyclonedx.Component{}, cyclonedx.Dependency{}, fmt.Errorf("modules of %s: %w", path, err)
	}
	sum, err := digest(path)
	refs := []string{add(all, "std", info.GoVersion)}
	for _, module := range info.Deps {
		for module.Replace != nil {
			module = module.Replace
		}
		refs = append(refs, add(all, module.Path, module.Version))
	}
	ref := filepath.Base(path)
	program := cyclonedx.Component{
		BOMRef: ref, Type: cyclonedx.ComponentTypeApplication, Name: ref, Version: "v" + r.version,
		Hashes: &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: sum}},
	}
	return program, cyclonedx.Dependency{Ref: ref, Dependencies: &refs}, err
}

// add notes a module by its package URL (package-url specification, type golang).
func add(all map[string]cyclonedx.Component, path, version string) string {
	purl := "pkg:golang/" + path + "@" + version
	all[purl] = cyclonedx.Component{BOMRef: purl, Type: cyclonedx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: purl}
	return purl
}
