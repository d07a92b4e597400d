package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/attune-run/attune/internal/schemas"
)

const documentsHead = `# Documents

The files that people write, and what travels between attune and those who use it. They are explained in [packs](../packs.md), [writing a
runtime](../runtimes.md), [plans and tests](../batch.md), [results](../results.md), [the worker pool](../worker.md). Each has a JSON Schema (2020-12), which editors and validators
understand: for a YAML file ` + "`# yaml-language-server: $schema=PATH`" + ` in its first line. Keys of lists and maps stand behind a dot; **bold** ones are required.
`

// documents is the page of all schemas.
func documents(root string) (string, error) {
	var b strings.Builder
	b.WriteString(documentsHead)
	for _, d := range schemas.Documents {
		schema, err := d.Read(root)
		if err != nil {
			return "", err
		}
		order, err := keyOrder(root, d)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s [%s](../../%s)\n\n| key | type | meaning |\n|---|---|---|\n", d.Title, schema.Description, strings.TrimPrefix(schema.ID, "attune:"), d.File)
		rows(&b, schema, "", "", order)
	}
	return b.String(), nil
}

// keyOrder are the keys of each object of a schema's text, in the text's order, by the object's JSON pointer: Go's maps have none.
func keyOrder(root string, d schemas.Document) (map[string][]string, error) {
	text, err := readText(filepath.Join(root, d.File))
	if err != nil {
		return nil, err
	}
	order := map[string][]string{}
	return order, readOrder(json.NewDecoder(strings.NewReader(text)), "", order)
}

// readOrder reads one value.
func readOrder(decoder *json.Decoder, pointer string, order map[string][]string) error {
	token, err := decoder.Token()
	if err != nil {
		return err
	}
	opening, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	for i := 0; decoder.More(); i++ {
		key := strconv.Itoa(i)
		if opening == '{' {
			token, err := decoder.Token()
			if err != nil {
				return err
			}
			key, _ = token.(string)
			order[pointer] = append(order[pointer], key)
		}
		if err := readOrder(decoder, pointer+"/"+key, order); err != nil {
			return err
		}
	}
	_, err = decoder.Token() // the end of it
	return err
}

// rows are those of a schema's properties, and of the properties within them. pointer is where in the text the schema is.
func rows(b *strings.Builder, s *jsonschema.Schema, prefix, pointer string, order map[string][]string) {
	for _, name := range order[pointer+"/properties"] {
		property := s.Properties[name]
		key := "`" + prefix + name + "`"
		if slices.Contains(s.Required, name) {
			key = "**" + key + "**"
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", key, cell(typeOf(property)), cell(meaningOf(property)))
		at := pointer + "/properties/" + name
		rows(b, property, prefix+name+".", at, order)
		rows(b, property.Items, prefix+name+".", at+"/items", order)
		rows(b, property.AdditionalProperties, prefix+name+".NAME.", at+"/additionalProperties", order)
	}
}

// typeOf says what a value may be, in few words.
func typeOf(s *jsonschema.Schema) string {
	switch {
	case s.Const != nil:
		return fmt.Sprintf("`%v`", *s.Const)
	case s.Enum != nil:
		var words []string
		for _, value := range s.Enum {
			words = append(words, fmt.Sprintf("`%v`", value))
		}
		return strings.Join(words, ", ")
	case s.Ref != "":
		return "as `" + s.Ref[strings.LastIndex(s.Ref, "/")+1:] + "` above"
	case s.Type == "" && s.Types == nil:
		return "any"
	}
	types := s.Types
	if types == nil {
		types = []string{s.Type}
	}
	text := strings.Join(types, " or ")
	if len(types) > 2 && slices.Contains(types, "array") {
		text = "list of texts"
	} else if s.Items != nil && s.Items.Type != "" {
		text = strings.Replace(text, "array", "list of "+s.Items.Type+"s", 1)
	}
	if s.Format != "" {
		text += " (" + s.Format + ")"
	}
	return text
}

func meaningOf(s *jsonschema.Schema) string {
	text := s.Description
	if len(s.Default) > 0 {
		text += fmt.Sprintf(" Default: `%s`.", strings.Trim(string(s.Default), `"`))
	}
	return strings.TrimSpace(text)
}

// cell makes a text one cell of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(text)
}

func readText(path string) (string, error) {
	text, err := os.ReadFile(path)
	return string(text), err
}
