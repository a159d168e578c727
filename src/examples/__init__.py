"""What a project of your own would add: one file and one word of conf/experiment each. docs/examples.md explains."""
