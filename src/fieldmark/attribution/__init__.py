"""What in an image speaks for a text: maps, their faithfulness, and the sources of errors."""
