"""The language of options: sections, dotted keys, YAML and JSON files, validation. It knows no option itself."""
