package project

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Schema returns the JSON Schema (draft 2020-12) of the project file, for
// editors. It is made from the same table that the reader uses: what it refuses
// the reader refuses. The reader also refuses what no schema can express, such
// as an artifact that no step makes.
func Schema() []byte {
	s := fileKind().schema
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Twinhull project file (" + FileName + ")"
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(s); err != nil {
		panic(fmt.Sprintf("encode the schema: %v", err)) // holds maps, lists, text and numbers only
	}
	return b.Bytes()
}

// KeysMarkdown is the reference of all keys as Markdown tables, one for each
// section. doc/project-file.md holds it.
func KeysMarkdown() []byte {
	var b bytes.Buffer
	keys := Keys()
	cell := func(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
	table := func(title, prefix string) {
		fmt.Fprintf(&b, "### %s\n\n| key | value | default | meaning |\n|---|---|---|---|\n", title)
		for _, k := range keys {
			name, ok := strings.CutPrefix(k.Path, prefix)
			if !ok || prefix == "" && strings.Contains(name, ".") {
				continue
			}
			standard := ""
			switch {
			case k.Required:
				standard = "**required**"
			case k.Default != "" && strings.ContainsAny(k.Default, " ") && !strings.HasPrefix(k.Default, "{"):
				standard = k.Default // words, not a value
			case k.Default != "":
				standard = "`" + k.Default + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", cell(name), cell(k.Type), cell(standard), cell(k.Doc))
		}
		b.WriteString("\n")
	}
	table("The file", "")
	for _, section := range []string{"development", "build", "production"} {
		table("`"+section+"`", section+".")
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}
