"""What recordings say of themselves beside their samples: chunks, XML, file names. Enter by `facts.complete`."""
