"""The words of the field: closed vocabularies, readable text, names and colours."""
