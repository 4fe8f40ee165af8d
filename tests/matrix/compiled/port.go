// One open to write and one to read, as Go's own library does it.
package main

import (
	"fmt"
	"log"
	"os"
)

func main() {
	out, err := os.OpenFile(os.Args[1], os.O_WRONLY, 0)
	if err != nil {
		log.Fatal(err)
	}
	in, err := os.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	if _, err := out.WriteString("hello"); err != nil {
		log.Fatal(err)
	}
	text := make([]byte, 80)
	count, err := in.Read(text)
	fmt.Printf("%q %v\n", text[:count], err)
}
