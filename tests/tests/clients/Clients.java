import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import org.apache.hc.client5.http.classic.methods.HttpGet;
import org.apache.hc.client5.http.impl.classic.CloseableHttpClient;
import org.apache.hc.client5.http.impl.classic.HttpClients;
import org.apache.hc.core5.http.io.entity.EntityUtils;

/** Asks for a URL and prints the answer: by the client of the JDK, or by Apache's. */
class Clients {
    public static void main(String[] arguments) throws Exception {
        URI uri = URI.create(arguments[1]);
        if (arguments[0].equals("jdk")) {
            HttpRequest request = HttpRequest.newBuilder(uri).build();
            HttpResponse<String> response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
            finish(response.statusCode(), response.body());
        }
        try (CloseableHttpClient client = HttpClients.createSystem()) {
            client.execute(new HttpGet(uri), response -> {
                finish(response.getCode(), EntityUtils.toString(response.getEntity()));
                return null;
            });
        }
    }

    private static void finish(int status, String body) {
        System.out.println(status + " " + body);
        System.exit(status == 200 ? 0 : 1);
    }
}
