"""What can be deployed to, one file each; the room says what a file defines."""
