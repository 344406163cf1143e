"""Each file is one step. What is written here once stays as it is: a change is a new step."""
