"""What a project of your own would add: a file and a word of conf/experiment each (docs/examples.md)."""
