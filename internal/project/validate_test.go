package project

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
)

// validate is as much of a JSON Schema validator as the schema of the project
// file needs. It returns what is wrong, or "". A keyword that it does not know
// panics, so that a new one cannot go untested.
func validate(s map[string]any, v any, at string) string {
	for word, arg := range s {
		switch word {
		case "$schema", "title", "description", "required", "additionalProperties", "properties":
		case "type":
			ok := false
			types, many := arg.([]any)
			if !many {
				types = []any{arg}
			}
			for _, t := range types {
				ok = ok || isType(t.(string), v)
			}
			if !ok {
				return fmt.Sprintf("%s: %v is not %v", at, v, arg)
			}
		case "enum":
			ok := false
			for _, x := range arg.([]any) {
				ok = ok || x == v
			}
			if !ok {
				return fmt.Sprintf("%s: %v is none of %v", at, v, arg)
			}
		case "const":
			if v != arg {
				return fmt.Sprintf("%s: %v is not %v", at, v, arg)
			}
		case "pattern":
			if text, ok := v.(string); ok && !regexp.MustCompile(arg.(string)).MatchString(text) {
				return fmt.Sprintf("%s: %q does not match %s", at, text, arg)
			}
		case "minLength":
			if text, ok := v.(string); ok && len(text) < int(arg.(float64)) {
				return at + ": too short"
			}
		case "minimum", "maximum":
			if n, ok := v.(json.Number); ok {
				x, _ := strconv.ParseFloat(string(n), 64)
				if word == "minimum" && x < arg.(float64) || word == "maximum" && x > arg.(float64) {
					return fmt.Sprintf("%s: %v is out of range", at, v)
				}
			}
		case "minItems", "maxItems":
			if l, ok := v.([]any); ok && (word == "minItems" && len(l) < int(arg.(float64)) || word == "maxItems" && len(l) > int(arg.(float64))) {
				return at + ": wrong number of items"
			}
		case "uniqueItems":
			if l, ok := v.([]any); ok {
				seen := map[string]bool{}
				for _, x := range l {
					key := fmt.Sprint(x)
					if seen[key] {
						return at + ": items are not unique"
					}
					seen[key] = true
				}
			}
		case "items":
			if l, ok := v.([]any); ok {
				for i, x := range l {
					if wrong := validate(arg.(map[string]any), x, fmt.Sprintf("%s[%d]", at, i)); wrong != "" {
						return wrong
					}
				}
			}
		case "propertyNames":
			if m, ok := v.(map[string]any); ok {
				for name := range m {
					if wrong := validate(arg.(map[string]any), name, at+"."+name); wrong != "" {
						return wrong
					}
				}
			}
		case "anyOf":
			first := ""
			for _, x := range arg.([]any) {
				wrong := validate(x.(map[string]any), v, at)
				if wrong == "" {
					first = ""
					break
				}
				first = wrong
			}
			if first != "" {
				return first
			}
		default:
			panic("unknown keyword " + word)
		}
	}
	m, ok := v.(map[string]any)
	if !ok {
		return ""
	}
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := m[name.(string)]; !ok {
			return fmt.Sprintf("%s: lacks %s", at, name)
		}
	}
	properties, _ := s["properties"].(map[string]any)
	for name, x := range m {
		sub, ok := properties[name].(map[string]any)
		if !ok {
			switch more := s["additionalProperties"].(type) {
			case bool:
				return fmt.Sprintf("%s: unknown key %s", at, name)
			case map[string]any:
				sub = more
			}
		}
		if wrong := validate(sub, x, at+"."+name); wrong != "" {
			return wrong
		}
	}
	return ""
}

func isType(t string, v any) bool {
	switch v := v.(type) {
	case string:
		return t == "string"
	case bool:
		return t == "boolean"
	case json.Number:
		_, err := strconv.Atoi(string(v))
		return t == "number" || t == "integer" && err == nil
	case []any:
		return t == "array"
	case map[string]any:
		return t == "object"
	}
	return false
}
