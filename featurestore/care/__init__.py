"""Care of a store: verify what is there, repair it, compact it, remove what nobody needs. Each folder is one command."""
